"""What must hold after `chaos.py`, read from the database and the store alone, with the service stopped.

Every acknowledged job is there, in exactly one final state, published by one attempt; events have no gaps; every
artifact and checkpoint has its job and its file, with its digest; every model's job has its bundle; no file belongs to
a job that does not exist.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from qualification.faults.checks import Story
from qualification.faults.worlds import World
from tapeworks.schemas.jobs import FINAL, State

FINAL_STATES = {state.value for state in FINAL}
Row = dict[str, Any]


def violations(world: World, acknowledged: Sequence[str]) -> list[str]:
    """Everything that does not hold."""
    jobs = {row["id"]: row for row in world.execute("SELECT id, project_id, state, attempt, event_seq, spec FROM jobs")}
    found = [f"{job_id} is lost" for job_id in acknowledged if job_id not in jobs]
    found += [f"{job_id} is {row['state']}" for job_id, row in jobs.items() if row["state"] not in FINAL_STATES]
    return [*found, *_events(world, jobs), *_files(world, jobs)]


def attempts(stories: Sequence[Story]) -> str:
    """How many jobs needed how many attempts."""
    counted = Counter(story.job.attempt for story in stories)
    return ", ".join(f"{number}: {counted[number]}" for number in sorted(counted))


def _events(world: World, jobs: dict[str, Row]) -> list[str]:
    found: list[str] = []
    told: dict[str, list[Row]] = defaultdict(list)
    for row in world.execute("SELECT job_id, seq, attempt, type, data FROM events ORDER BY job_id, seq"):
        told[row["job_id"]].append(row)
    for job_id, job in jobs.items():
        events = told.pop(job_id, [])
        if [event["seq"] for event in events] != list(range(1, job["event_seq"] + 1)):
            found.append(f"{job_id}: its events have gaps")
        if [event["attempt"] for event in events] != sorted(event["attempt"] for event in events):
            found.append(f"{job_id}: an earlier attempt tells something after a later one")
        states = [
            (json.loads(event["data"])["state"], event["attempt"]) for event in events if event["type"] == "state"
        ]
        ended = [state for state, _ in states if state in FINAL_STATES]
        if ended != [job["state"]]:
            found.append(f"{job_id} ended as {ended} and is {job['state']}")
        published = {attempt for state, attempt in states if state == State.SUCCEEDED.value}
        if job["state"] == State.SUCCEEDED.value and published != {job["attempt"]}:
            found.append(f"{job_id} was published by {published} and is of {job['attempt']}")
    return found + [f"events of {job_id}, which does not exist" for job_id in told]


def _files(world: World, jobs: dict[str, Row]) -> list[str]:
    found: list[str] = []
    store = world.data / "artifacts"
    artifacts = world.execute("SELECT job_id, attempt, role, bytes, sha256, key FROM artifacts")
    checkpoints = world.execute("SELECT job_id, attempt, 'checkpoint' AS role, bytes, sha256, key FROM checkpoints")
    bundles: Counter[str] = Counter()
    for row in [*artifacts, *checkpoints]:
        job = jobs.get(row["job_id"])
        if job is None:
            found.append(f"{row['key']} has no job")
            continue
        if row["role"] == "bundle":
            bundles[row["job_id"]] += 1
            if job["state"] != State.SUCCEEDED.value or row["attempt"] != job["attempt"]:
                found.append(f"{row['job_id']} is {job['state']} and has a bundle of attempt {row['attempt']}")
        file = store / row["key"]
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != row["sha256"]:
            found.append(f"{row['job_id']}: the file of a {row['role']} is missing or damaged")
    for job_id, job in jobs.items():
        wanted = job["state"] == State.SUCCEEDED.value and json.loads(job["spec"]).get("export") is not None
        if bundles[job_id] != wanted:
            found.append(f"{job_id} is {job['state']} and has {bundles[job_id]} bundles")
    return found + _strangers(world, jobs)


def _strangers(world: World, jobs: dict[str, Row]) -> list[str]:
    """Files that neither a job of the database nor an upload explains: nothing would ever collect them."""
    store = world.data / "artifacts"
    uploads = {row["id"] for row in world.execute("SELECT id FROM uploads")}
    noted = [row["prefix"] for row in world.execute("SELECT prefix FROM deletions")]
    found = []
    for file in (path for path in store.rglob("*") if path.is_file()):
        key = file.relative_to(store).as_posix()
        parts = key.split("/")
        explained = (parts[1:2] == ["jobs"] and parts[2] in jobs) or (parts[1:2] == ["uploads"] and parts[2] in uploads)
        if key != "probe" and not explained and not any(key.startswith(one) for one in noted):
            found.append(f"nothing explains the file {key}")
    return found
