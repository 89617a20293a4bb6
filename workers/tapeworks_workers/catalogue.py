"""What this worker's components are: admitted in a process of their own, and remembered.

Admission builds, serialises and traces every component, which takes seconds. Its result is kept in
the work folder under the digest of what it depends on (`zygote.digest`), so a worker that starts
again with the same sources and versions is ready at once.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from tapeworks.wire import Catalogue
from tapeworks_workers.launcher import Launcher, LaunchFailed
from tapeworks_workers.output import Output
from tapeworks_workers.processes import Child

ADMISSION_SECONDS = 600.0
_KEPT = 10
_ON_CPU = {"CUDA_VISIBLE_DEVICES": "-1"}

Snapshot = tuple[tuple[str, int, int], ...]
"""Path, modification time (ns) and size of every source file."""

log = structlog.get_logger(__name__)


class Admitted(BaseModel):
    """The catalogue of the components that runners have, and the versions it was made with."""

    model_config = ConfigDict(frozen=True)

    versions: dict[str, str]
    catalogue: Catalogue


async def admit(launcher: Launcher, components: Sequence[Path], *, folder: Path) -> Admitted:
    """Load the components in `components` and admit them all. Raises LaunchFailed."""
    loaded = await launcher.load([path.resolve() for path in components])
    remembered = folder / f"{loaded.digest}.json"
    if loaded.digest is not None and (known := _recall(remembered)) is not None:
        return known
    child = await launcher.admission(environment=_ON_CPU)
    admitted = await _result(child)
    for one in admitted.catalogue.refused:
        log.warning("a component was refused", component=one.name, reason=one.reason)
    if loaded.digest is not None:
        await asyncio.to_thread(_remember, remembered, admitted)
    return admitted


async def _result(child: Child) -> Admitted:
    output = Output(lambda record: log.info("admission", text=record["text"]))
    printing = [
        asyncio.create_task(output.relay(child.stdout, "stdout")),
        asyncio.create_task(output.relay(child.stderr, "stderr")),
    ]
    try:
        async with asyncio.timeout(ADMISSION_SECONDS):
            answer = await child.result()
            status = await child.handle.wait()
            await asyncio.wait(printing, timeout=2)
    except TimeoutError:
        raise LaunchFailed(f"admission took more than {ADMISSION_SECONDS:g} s") from None
    finally:
        child.handle.kill_group()
        await child.handle.wait()
        for task in printing:
            task.cancel()
    if answer is None:
        raise LaunchFailed(f"admission ended with status {status} and no catalogue: " + "\n".join(output.tail))
    if not answer["ok"]:
        failure = answer["failure"]
        raise LaunchFailed(f"admission failed: {failure['message']}\n{failure.get('traceback_tail', '')}")
    return Admitted.model_validate(answer["report"])


def _recall(file: Path) -> Admitted | None:
    try:
        return Admitted.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        log.warning("a remembered catalogue cannot be read and is made again", file=file.name, error=str(error))
        return None


def _remember(file: Path, admitted: Admitted) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(".new")
    aside.write_text(admitted.model_dump_json())
    os.replace(aside, file)
    oldest_first = sorted(file.parent.glob("*.json"), key=lambda path: path.stat().st_mtime)
    for old in oldest_first[:-_KEPT]:
        old.unlink(missing_ok=True)


def snapshot(components: Sequence[Path]) -> Snapshot:
    """What the source files look like now: two that are equal mean that nothing changed."""
    return tuple(sorted(_looks(file) for path in components for file in _sources(path) if file.is_file()))


def _sources(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from path.rglob("*.py")
    else:
        yield path


def _looks(file: Path) -> tuple[str, int, int]:
    try:
        status = file.stat()
    except FileNotFoundError:
        return str(file), 0, 0  # removed between the listing and the look
    return str(file), status.st_mtime_ns, status.st_size
