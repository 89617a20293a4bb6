"""Rows of the fault table about disks: full, not writable, and bytes that changed."""

from __future__ import annotations

import hashlib
import signal
import tempfile
import time
from pathlib import Path

import httpx

from qualification.faults import specs
from qualification.faults.cases import WAIT, Case, another_runs, count, gather, saved
from qualification.faults.checks import Story, check
from qualification.faults.outcome import Outcome
from qualification.faults.processes import killed, send
from qualification.faults.worlds import World
from tapeworks.errors import ApiError, Unavailable
from tapeworks.schemas.jobs import Job, State
from tests.support.serving import eventually

FULL = {"storage_full"}
UNWRITABLE = {"storage_full", "storage_unavailable"}


def worker_full(world: World, times: int) -> Outcome:
    """The worker's disk is full: a checkpoint is left out or the attempt fails, coded; the earlier one is intact."""
    outcome = Outcome("disk full: the worker's folder", times)
    assert world.disks is not None
    for _ in range(times):
        job = saved(world, world.client.submit(specs.job(steps=2000, milliseconds=4.0)))
        with world.disks.full(world.work):
            _tells(world, job, FULL)
            at = time.time()
        _ends_well(world, outcome, job, at, steps=2000)
    return outcome


def store_full(world: World, times: int) -> Outcome:
    """The store's disk is full: checkpoints are left out with `storage_full`, the service stays up."""
    outcome = Outcome("disk full: the artifact store", times)
    assert world.disks is not None
    for _ in range(times):
        job = saved(world, world.client.submit(specs.job(steps=3000, milliseconds=4.0)))
        with world.disks.full(world.data):
            _tells(world, job, FULL)
            _alive(world, outcome)
            failed = _failing(world, outcome)
            if failed.codes() != FULL:
                outcome.problems.append(f"{failed.job.id}: {failed.codes()}")
            at = time.time()
        _ends_well(world, outcome, job, at, steps=3000)
    return outcome


def database_full(world: World, times: int) -> Outcome:
    """The SQLite file's disk is full: 507 or 503, the service stays up and goes on when there is room."""
    outcome = Outcome("disk full: the SQLite file", times)
    assert world.disks is not None
    for _ in range(times):
        job = saved(world, world.client.submit(specs.job(steps=2000, milliseconds=4.0)))
        with world.disks.full(world.file.parent):
            refused = eventually(lambda: _refused(world), 60, "the service says that it is full")
            if refused.json()["code"] != "storage_full" or "Retry-After" not in refused.headers:
                outcome.problems.append(f"answered {refused.status_code}: {refused.text[:200]}")
            _alive(world, outcome)
            at = time.time()
        _ends_well(world, outcome, job, at, steps=2000)
        if world.client.get(job.id).attempt != 1:
            outcome.problems.append(f"{job.id} lost its attempt")
    return outcome


def store_read_only(world: World, times: int) -> Outcome:
    """The store cannot be written (a read-only mount): coded, the service stays up, checkpoints are left out."""
    outcome = Outcome("unwritable: the artifact store (read-only mount)", times)
    assert world.disks is not None
    for _ in range(times):
        job = saved(world, world.client.submit(specs.job(steps=3000, milliseconds=4.0)))
        with world.disks.read_only(world.data / "artifacts"):
            _tells(world, job, UNWRITABLE)
            _alive(world, outcome)
            failed = _failing(world, outcome)
            if not failed.codes() <= UNWRITABLE:
                outcome.problems.append(f"{failed.job.id}: {failed.codes()}")
            at = time.time()
        _ends_well(world, outcome, job, at, steps=3000)
    return outcome


def checkpoint_flipped(world: World, times: int) -> Outcome:
    """A byte of the newest checkpoint changes in the store: it is not loaded, the one before it is."""
    outcome = Outcome("a flipped byte in a checkpoint", times)
    spec = specs.job(steps=2000, milliseconds=4.0)
    for _ in range(times):
        job = saved(world, world.client.submit(spec), more=2)
        runner = world.runner_of(job)
        assert runner is not None
        send([runner], signal.SIGSTOP)
        listed = eventually(lambda job=job: _settled(world, job), 30, "no further checkpoint comes")
        flip(world, listed[0]["sha256"])
        at = time.time()
        killed([runner])
        eventually(lambda job=job: world.client.get(job.id).attempt == 2, WAIT, "another attempt begins")
        outcome.interval = 2 * specs.INTERVAL  # it falls back one
        case = Case(world.client.wait(job.id, WAIT), at, listed[0]["step"])
        story = check(world.client, case.job.id, steps=2000, report=specs.REPORT, corrupt=True)
        count(outcome, story)
        rewound = story.rewound(2)
        if rewound is None or rewound.data["step"] != listed[1]["step"]:
            outcome.problems.append(f"{job.id} began again at {rewound and rewound.data}, not {listed[1]['step']}")
        else:
            outcome.recovered(rewound.at.timestamp() - at)
            outcome.again(listed[0]["step"] - listed[1]["step"])
        if "checkpoint_corrupt" not in story.codes():
            outcome.problems.append(f"{job.id} does not tell of its damaged checkpoint: {story.codes()}")
    return outcome


def bundle_flipped(world: World, times: int) -> Outcome:
    """A byte of a bundle changes in the store: no download gives it, no job goes on from it."""
    outcome = Outcome("a flipped byte in a bundle", times)
    for _ in range(times):
        job = world.client.wait(world.client.submit(specs.short(export={})).id, WAIT)
        count(outcome, check(world.client, job.id, steps=None, report=1))
        assert job.model is not None
        flip(world, job.model.sha256)
        with tempfile.TemporaryDirectory() as folder:
            try:
                outcome.problems.append(f"{world.client.download(job.id, Path(folder))} was downloaded")
            except ApiError as error:
                if error.code != "digest_mismatch":
                    outcome.problems.append(f"the download said {error.code}")
            outcome.problems += [f"{file.name} stands there" for file in Path(folder).glob("[!.]*")]
        model = {"component": "pretrained", "config": {"from": job.id}}
        after = world.client.wait(world.client.submit(specs.short(model=model)).id, WAIT)
        story = check(world.client, after.id, steps=None, report=1)
        count(outcome, story, wanted=State.FAILED)
        if story.codes() != {"checkpoint_corrupt"}:
            outcome.problems.append(f"what goes on from it: {story.job.state.value} {story.codes()}")
    return outcome


def flip(world: World, sha256: str) -> None:
    """Change one byte of the file with this digest."""
    for file in world.reach(world.data / "artifacts").rglob("*"):
        if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == sha256:
            middle = file.stat().st_size // 2
            with file.open("r+b") as stored:
                stored.seek(middle)
                byte = stored.read(1)[0]
                stored.seek(middle)
                stored.write(bytes([byte ^ 0x10]))
            return
    raise AssertionError(f"no file of the store has the digest {sha256}")


def _settled(world: World, job: Job) -> list[dict[str, int]] | None:
    """The checkpoints that are listed, once the newest file that the runner wrote is among them."""
    listed = world.http.get(f"/v1/jobs/{job.id}/checkpoints").raise_for_status().json()["data"]
    written = sorted(
        int(file.name.split("-")[1]) for file in (world.attempt_folder(job) / "checkpoints").glob("step-*")
    )
    return listed if written and listed[0]["step"] >= written[-1] else None


def _tells(world: World, job: Job, codes: set[str]) -> None:
    """Wait until the job tells of one of these."""

    def told() -> bool:
        try:
            return bool(Story.of(world.client, job.id).codes() & codes)
        except Unavailable:
            return False

    eventually(told, 90, f"{job.id} tells {codes}")


def _alive(world: World, outcome: Outcome) -> None:
    assert world.service is not None
    if world.service.poll() is not None or httpx.get(f"{world.url}/healthz", timeout=30).status_code != 200:
        outcome.problems.append("the service did not stay up")


def _failing(world: World, outcome: Outcome) -> Story:
    """A job that must publish while it cannot: it fails, told why."""
    done = world.client.wait(world.client.submit(specs.short(export={}, limits={"max_attempts": 1})).id, WAIT)
    story = check(world.client, done.id, steps=None, report=1)
    count(outcome, story, wanted=State.FAILED)
    return story


def _refused(world: World) -> httpx.Response | None:
    answer = httpx.post(f"{world.url}/v1/jobs", json=specs.short(), timeout=60)
    return answer if answer.status_code >= 500 else None


def _ends_well(world: World, outcome: Outcome, job: Job, at: float, *, steps: int) -> None:
    """The job that met the full disk ends as if it had not, and another one runs."""
    done = world.client.wait(job.id, WAIT)
    spec = specs.job(steps=steps)
    gather(world, outcome, Case(done, at, 0), spec)
    another_runs(world, outcome)
    outcome.repeated = None
