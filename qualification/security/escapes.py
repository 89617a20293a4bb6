"""What uploaded code tries, and how it is refused: each a row, with what shows that nothing got through."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from qualification.security.attacked_server import CANARY, DISK_BYTES, House
from tapeworks.schemas.jobs import Job, State
from tapeworks.schemas.report_limits import LIMITS
from tests.support.uploading import a_bundle

HOSTILE = Path(__file__).parent / "hostile"
MEMORY_GIB = 2
BOMB = 5_000
DEEP = 20_000
SECONDS = 120


@dataclass(frozen=True)
class Outcome:
    """What became of an attempt."""

    refused: str
    """By what."""
    through: bool


@dataclass(frozen=True)
class Escape:
    """An attempt."""

    name: str
    tried: str
    run: Callable[[House], Outcome]


def job(house: House, what: str, *, target: str = "", number: int = 0, **over: Any) -> tuple[Job, dict[str, Any]]:
    """Run the attempt; the job, and what it printed."""
    source = {"component": "hostile/Try", "config": {"what": what, "target": target, "number": number}}
    spec = {
        "data": {"source": source, "pipeline": [{"op": "batch", "batch_size": 4}]},
        "model": {"component": "mlp", "config": {"hidden": [], "outputs": 2}},
        "optimizer": "keras/SGD", "loss": "focal", "training": {"epochs": 1}, "export": None,
        "limits": {"max_attempts": 1}, **over,
    }  # fmt: skip
    ended = house.client.wait(house.client.submit(spec).id, SECONDS)
    lines = [line.text for line in house.client.logs(ended.id) if line.text.startswith("ESCAPE ")]
    return ended, json.loads(lines[-1].removeprefix("ESCAPE ")) if lines else {}


def _printed(what: str, **given: Any) -> Callable[[House], Outcome]:
    """An attempt that says itself what it reached; `given` may ask the house."""

    def run(house: House) -> Outcome:
        known = {name: value(house) if callable(value) else value for name, value in given.items()}
        ended, told = job(house, what, **known)
        if ended.state is not State.SUCCEEDED or "reached" not in told:
            raise AssertionError(f"the attempt itself went wrong: {ended.failure} {told}")
        return Outcome(str(told.get("error", "nothing was there")), bool(told["reached"]))

    return run


def _connect(house: House) -> Outcome:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        sock.settimeout(0.1)
        outcome = _printed("connect", number=sock.getsockname()[1])(house)
        try:
            sock.accept()
        except TimeoutError:
            return outcome
        return Outcome("a connection came", through=True)


def _write(house: House) -> Outcome:
    places = [house.private, house.work_dir / "compiled" / "x", house.served.data / "x", house.work_dir / "worker.lock"]
    before = house.private.read_text()
    outcome = _printed("write", target=":".join(map(str, places)))(house)
    return Outcome(outcome.refused, outcome.through or house.private.read_text() != before)


def _bounded(what: str, code: str, **over: Any) -> Callable[[House], Outcome]:
    """An attempt that is ended from outside, with a code."""

    def run(house: House) -> Outcome:
        ended, _ = job(house, what, **over)
        failure = ended.failure
        return Outcome(
            f"{failure and failure.code}: {failure and failure.message}", failure is None or failure.code != code
        )

    return run


def _fork_bomb(house: House) -> Outcome:
    ended, told = job(house, "fork_bomb", number=BOMB)
    refused = f"{told.get('error')} after {told.get('count')}" if told else f"its job {ended.state.value}"
    return Outcome(f"{refused}; {_left(house)}", bool(told.get("reached")) or _lives(house))


def _outlive(house: House) -> Outcome:
    job(house, "outlive")
    return Outcome(_left(house), _lives(house))


def _lives(house: House) -> bool:
    """Whether anything of an attempt still runs when its job has ended, beside the zygotes that stay."""
    end = time.monotonic() + 15
    while extra := [process for process in house.inhabitants() if _is_of_an_attempt(process)]:
        if time.monotonic() > end:
            return bool(extra)
        time.sleep(0.1)
    return False


def _is_of_an_attempt(process: psutil.Process) -> bool:
    """Zygotes wait for their agent; what an attempt left sleeps."""
    try:
        return Path(f"/proc/{process.pid}/wchan").read_text() in ("hrtimer_nanosleep", "do_nanosleep")
    except (OSError, psutil.Error):
        return False


def _left(house: House) -> str:
    return "something of it still runs" if _lives(house) else "all it started was ended with its job"


def _link(house: House) -> Outcome:
    ended, _ = job(house, "link", target=str(house.key_file))
    left = {file.path: file for file in house.client.artifacts(ended.id)}
    secret = house.key_file.read_text()
    texts = []
    for path in left:
        texts.append(house.client.download_artifact(ended.id, path, house.private.with_name("taken")).read_text())
    through = "leak.txt" in left or any(secret in text for text in texts)
    return Outcome(f"published: {', '.join(left) or 'nothing'}", through)


def _leftovers(house: House) -> Outcome:
    _, told = job(house, "leave", target="of the job before", number=4321)
    if not told.get("left"):
        raise AssertionError(f"nothing was left: {told}")
    outcome = _printed("find", number=4321)(house)
    return Outcome(outcome.refused if outcome.through else "nothing of it was there", outcome.through)


def _nested(house: House) -> Outcome:
    """The folders are deeper than a path can name, so nothing that calls itself for each can remove them."""
    ended, _ = job(house, "nested", number=DEEP)
    end = time.monotonic() + SECONDS
    while left := [one for one in (house.work_dir / "attempts").glob("*") if ended.id in one.name]:
        if time.monotonic() > end:
            break
        time.sleep(0.1)
    again, _ = job(house, "nothing")
    what = f"its job ended as {ended.failure.code if ended.failure else ended.state.value}"
    return Outcome(f"{what}, {len(left)} folders left, the next job {again.state.value}", bool(left) or not _ran(again))


def _ran(ended: Job) -> bool:
    return ended.state is State.SUCCEEDED


def _flood(house: House) -> Outcome:
    """Events of 60 kB as fast as they go, for twenty seconds."""
    before = _stored(house)
    ended, _ = job(house, "flood", limits={"max_attempts": 1, "timeout_seconds": 20})
    grown = _stored(house) - before
    again, _ = job(house, "nothing")
    refused = f"{ended.failure and ended.failure.code}; {grown >> 20} MiB were kept, the next job {again.state.value}"
    return Outcome(refused, not _ran(again) or grown > 40 * LIMITS.bytes_per_second + 2 * LIMITS.bytes_at_once)


def _stored(house: House) -> int:
    """Bytes of the service's database and of what the worker has yet to hand over."""
    files = [*house.served.data.glob("tapeworks.db*"), *house.work_dir.rglob("*spool*")]
    return sum(file.stat().st_size for file in files if file.is_file())


def _bomb(house: House) -> Outcome:
    """A Parquet file of some kilobytes that unpacks to gigabytes, looked at when it is uploaded."""
    file = house.private.with_name("bomb.parquet")
    column = pa.array(np.zeros(8_000_000, "int64"))
    pq.write_table(pa.table({f"n{at}": column for at in range(10)}), file, row_group_size=8_000_000)
    dataset = house.client.datasets.settled(house.client.datasets.push(file), SECONDS)
    again, _ = job(house, "nothing")
    size = file.stat().st_size
    return Outcome(
        f"{size} bytes: {dataset.failure and dataset.failure.message}", dataset.failure is None or not _ran(again)
    )


def _kill_everything(house: House) -> Outcome:
    agent = house.served.agent.pid
    ended, _ = job(house, "kill_everything")
    again, _ = job(house, "nothing")
    alive = house.served.agent.pid == agent and again.state is State.SUCCEEDED
    return Outcome(f"its own job ended as {ended.state.value}, the worker lives", not alive)


def _forged(house: House) -> Outcome:
    ended, _ = job(house, "forge", export={})
    return Outcome(f"{ended.failure and ended.failure.message}", ended.model is not None)


def _sealed(house: House) -> Outcome:
    """The module of the bundle that a verifier imports is the package's own, and what it changes would be published."""
    ended, told = job(house, "nothing", export={})
    if not told.get("reached") and (ended.model is None or "error" not in told):
        raise AssertionError(f"the attempt itself went wrong: {ended.failure} {told}")
    return Outcome(str(told.get("error")), bool(told["reached"]))


def _crafted(house: House) -> Outcome:
    """A model file that names a function of Python's where a layer should stand; nothing at the door knows that one."""
    canary = house.private.with_name("canary")
    layer = {"module": "os", "class_name": "system", "config": {"command": f"touch {canary}"}, "registered_name": None}
    config = {"module": "keras", "class_name": "Sequential", "config": {"name": "m", "layers": [layer]}}
    file = house.private.with_name("crafted.tar.gz")
    file.write_bytes(a_bundle(config))
    bundle = house.client.bundles.push(file, name="crafted")
    model = {"component": "pretrained", "config": {"from": bundle.id}}
    ended, _ = job(house, "nothing", model=model)
    failure = ended.failure
    through = canary.exists() or failure is None or failure.code != "invalid_data"
    return Outcome(f"{failure and failure.message}", through)


ESCAPES = (
    Escape("key", "read the worker's key", _printed("read", target=lambda house: str(house.key_file))),
    Escape("database", "read the service's database", _printed(
        "read", target=lambda house: str(house.served.data / "tapeworks.db"))),
    Escape("operator's file", "read a file of the operator", _printed("read", target=lambda house: str(house.private))),
    Escape("passwords", "read the machine's passwords", _printed("read", target="/etc/shadow")),
    Escape("other root", "read through another process's root", _printed(
        "read", target="/proc/1/" + "root/etc/hostname")),
    Escape("other jobs", "list other jobs' folders", _printed(
        "listing", target=lambda house: str(house.work_dir / "attempts"))),
    Escape("uploads", "list other projects' uploads", _printed(
        "listing", target=lambda house: str(house.work_dir / "uploads" / "other"))),
    Escape("environment", "find a secret in any environment", _printed("environment", target=CANARY)),
    Escape("socket", "open a socket to this machine and beyond", _connect),
    Escape("write outside", "write outside its folder", _write),
    Escape("root", "become root, mount, change the root", _printed("become_root")),
    Escape("signal", "kill the agent", _printed("send_signal", number=lambda house: house.served.agent.pid)),
    Escape("kill all", "kill every process it may", _kill_everything),
    Escape("fork bomb", f"start {BOMB} processes", _fork_bomb),
    Escape("memory", "fill the memory", _bounded("memory", "out_of_memory", resources={"memory_gib": MEMORY_GIB})),
    Escape("disk", "fill the disk", _bounded("disk", "storage_full")),
    Escape("memfds", "hold memory that no heap has", _printed("memfds", number=8 << 30)),
    Escape("nested", f"leave {DEEP} folders in one another", _nested),
    Escape("flood", "send events for twenty seconds", _flood),
    Escape("bomb", "have a file read that unpacks to gigabytes", _bomb),
    Escape("tmp", "fill /tmp", _printed("temporary", number=4 << 30)),
    Escape("leftovers", "find in /tmp, /dev/shm and shared memory what the job before left", _leftovers),
    Escape("link", "leave a link for the agent to upload", _link),
    Escape("crafted model", "run a command from a crafted .keras file", _crafted),
    Escape("forged certificate", "publish 23 bytes as a verified model", _forged),
    Escape("sealed bundle", "change a bundle after it was sealed", _sealed),
    Escape("outlive", "outlive its job", _outlive),
)  # fmt: skip


def admitted(house: House) -> None:
    """Upload the hostile package, once."""
    package = house.client.packages.settled(house.client.packages.push(HOSTILE), SECONDS)
    assert package.state == "admitted", package
    assert DISK_BYTES < os.statvfs(house.served.data).f_bavail * 4096
