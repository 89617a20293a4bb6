"""A fuzzer of what crosses the wall: it speaks the protocol from inside a sandbox, beside a job of another project.

    python -m qualification.security.protocol_fuzzer --seconds 600 --seed 1     `make fuzz-protocol`

Each try is a job of `protocol/fuzz_parts.py`: its runner sends wrong frames, or the zygote of its sandbox answers fork
requests wrongly. After each, the agent must be the same process, the other job must have gone on in its first attempt,
and at the end an ordinary job of each project must succeed. Prints what became of the tries, how late the agent's loop
was at worst, and how much its memory grew. Ends with 1 where anything was noticed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qualification.security.attacked_server import House, housed
from qualification.security.job_beside import job_beside, other_project
from tapeworks.client.client import Client
from tapeworks.schemas.jobs import Job, State
from tapeworks_workers.health import age
from tests.support.serving import eventually, spec

PARTS = Path(__file__).parent / "protocol"
SECONDS = 180
LIMIT_SECONDS = 60
"""Of a try."""


@dataclass
class Noticed:
    """What came of the tries."""

    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    latest: float = 0.0
    """Seconds that the agent's loop stood still at worst."""
    longest_pause: float = 0.0
    """Seconds without progress of the other project's job at worst."""
    growth_bytes: int = 0
    """Of the agent's memory, from the first try to the last."""
    descriptors: int = 0
    """That the agent has open after the last try, and had not before the first."""


@contextmanager
def lateness(house: House, noticed: Noticed) -> Iterator[None]:
    """Record how long the agent's loop gave no sign of life."""
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.1):
            noticed.latest = max(noticed.latest, (age(house.work_dir) or 0.0) - 1.0)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield
    finally:
        done.set()
        looking.join()


def uploaded(house: House, zygote_seed: int) -> bool:
    """Upload the parts; whether they were admitted: a zygote that answers wrongly may fail its own package."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(shutil.copytree(PARTS, Path(name) / "fuzz"))
        for file, before, after in (
            ("fuzz_parts.py", "ZYGOTE_SEED = 0", f"ZYGOTE_SEED = {zygote_seed}"),
            ("pyproject.toml", 'version = "1.0"', f'version = "1.{zygote_seed}"'),
        ):
            text = (folder / file).read_text()
            assert before in text
            (folder / file).write_text(text.replace(before, after))
        package = house.client.packages.settled(house.client.packages.push(folder), SECONDS)
    return bool(package.state == "admitted")


def tried(client: Client, seed: int, zygote_seed: int) -> Job:
    """One job of the parts, at its end."""
    source = {"component": "fuzz/Speak", "version": f"1.{zygote_seed}", "config": {"seed": seed}}
    limits = {"max_attempts": 1, "timeout_seconds": LIMIT_SECONDS}
    data = {"source": source, "pipeline": [{"op": "batch", "batch_size": 4}]}
    model = {"component": "mlp", "config": {"hidden": [], "outputs": 2}}
    return client.wait(client.submit(spec(data=data, model=model, limits=limits)).id, SECONDS)


def fuzzed(house: House, *, seed: int, tries: int, seconds: float, per_zygote: int = 4) -> Noticed:
    """Try until there were so many, or so long; a new wrong zygote after each `per_zygote` jobs of frames."""
    noticed = Noticed()
    deadline = time.monotonic() + seconds
    with other_project(house.served) as other:
        with job_beside(other) as beside, lateness(house, noticed):
            beside.longest_pause()
            _try_all(house, other, beside.id, noticed, seed=seed, tries=tries, deadline=deadline, per_zygote=per_zygote)
            noticed.longest_pause = beside.longest_pause()
        noticed.wrong += [f"an ordinary job afterwards: {one}" for one in _next_jobs(house.client, other)]
    return noticed


def _try_all(
    house: House,
    other: Client,
    beside: str,
    noticed: Noticed,
    *,
    seed: int,
    tries: int,
    deadline: float,
    per_zygote: int,
) -> None:
    agent = house.served.agent
    assert uploaded(house, 0)
    before, open_before = agent.memory_info().rss, agent.num_fds()
    step = 0
    for number in range(tries):
        if time.monotonic() > deadline:
            break
        zygote_seed = seed + number if number % (per_zygote + 1) == per_zygote else 0
        what = f"seed {seed + number}, zygote {zygote_seed}"
        if zygote_seed and not uploaded(house, zygote_seed):
            noticed.outcomes["the package was refused"] += 1
        else:
            ended = tried(house.client, seed + number, zygote_seed)
            noticed.outcomes[ended.failure.code if ended.failure else ended.state.value] += 1
        noticed.wrong += [f"{what}: {one}" for one in _noticed(house, other, agent.pid, beside, step)]
        step = other.get(beside).progress.step
    if agent.is_running():
        noticed.growth_bytes = agent.memory_info().rss - before
        noticed.descriptors = agent.num_fds() - open_before


def _noticed(house: House, other: Client, agent: int, beside: str, step: int) -> Iterator[str]:
    """What a try changed outside of its sandbox."""
    if house.served.agent.pid != agent:
        yield "the agent was replaced"
    job = other.get(beside)
    if job.state is not State.RUNNING or job.attempt != 1:
        yield f"the job beside is {job.state} in attempt {job.attempt}: {job.failure}"
        return
    try:
        eventually(lambda: other.get(beside).progress.step > step, LIMIT_SECONDS, "it goes on")
    except AssertionError:
        yield f"the job beside stands at step {step}"


def _next_jobs(*clients: Client) -> Iterator[str]:
    for client in clients:
        job = client.wait(client.submit(spec()).id, SECONDS)
        if job.state is not State.SUCCEEDED:
            yield f"{job.state}: {job.failure}"


def main() -> int:
    """Print what was noticed; 1 where anything was."""
    parser = argparse.ArgumentParser(prog="python -m qualification.security.protocol_fuzzer")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    options: Any = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, housed(Path(name)) as house:
        noticed = fuzzed(house, seed=options.seed, tries=sys.maxsize, seconds=options.seconds)
    told = {
        "tries": noticed.outcomes.total(), "outcomes": dict(noticed.outcomes.most_common()),
        "latest_seconds": round(max(0.0, noticed.latest), 2), "longest_pause": round(noticed.longest_pause, 2),
        "growth_mib": noticed.growth_bytes >> 20,
        "descriptors": noticed.descriptors,
        "wrong": noticed.wrong,
    }  # fmt: skip
    sys.stdout.write(json.dumps(told, indent=2) + "\n")
    return int(bool(noticed.wrong))


if __name__ == "__main__":
    sys.exit(main())
