"""What this worker's components are: admitted in a process of their own, and remembered.

Admission builds, serialises and traces every component, which takes seconds. What came of those that we ship, and of
the worker's own, is kept under the digest of what it depends on (`zygote.digests`: sources and versions), in the work
folder and in the user's cache: a worker that starts again, or another one beside it, is ready at once, and a component
that was edited is admitted without the hundreds that were not.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from tapeworks.errors import FailureCode
from tapeworks.schemas.worker_protocol import Catalogue
from tapeworks_workers.processes.children import Child, read_frame
from tapeworks_workers.processes.exit_failures import signal_name
from tapeworks_workers.processes.frames import MAX_MESSAGE_BYTES, FrameError
from tapeworks_workers.processes.launcher import Launcher, LaunchFailed
from tapeworks_workers.processes.output_lines import Output

ADMISSION_SECONDS = 600.0
"""What the admission of one component may take that is shipped with Tapeworks."""
COMPONENT_SECONDS = 60.0
_SLOW = "Give it a smaller example, and let neither __init__ nor its methods wait for something."
_ENDS = "Construct it and call it on its example in a Python of its own: `python -X faulthandler`."
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


@dataclass(frozen=True)
class Stuck:
    """A component in whose admission the process ended or stayed, and why it is refused."""

    component: str
    why: dict[str, str]

    @classmethod
    def of(cls, component: str | None, reason: str, hint: str, code: FailureCode, tail: str = "") -> Stuck:
        """Raises LaunchFailed where no component had been begun."""
        if component is None:
            raise LaunchFailed(f"{reason} before the first component: {tail}".rstrip(": "))
        return cls(component, {"reason": reason, "hint": hint, "code": code.value})


async def admit(
    launcher: Launcher, components: Sequence[Path], *, folder: Path, seconds: float = COMPONENT_SECONDS
) -> Admitted:
    """Load the components in `components` and admit them all; each may take that long. Raises LaunchFailed."""
    loaded = await launcher.load([path.resolve() for path in components])
    if not loaded.parts:
        admitted = await _admitted(launcher, "all", seconds)
        _log_refused(admitted)
        return admitted
    places = (folder, *_of_user())
    found: list[Admitted] = []
    for part, digest in loaded.parts.items():
        files = [place / f"{digest}.json" for place in places]
        known = _recalled(files)
        if known is None:
            known = await _admitted(launcher, part, seconds)
            if all(one.code is not FailureCode.COMPONENT_TIMEOUT for one in known.catalogue.refused):
                await asyncio.to_thread(_remember_all, files, known)  # a slow machine may be a faster one tomorrow
        found.append(known)
    admitted = _together(found)
    _log_refused(admitted)
    return admitted


async def _admitted(launcher: Launcher, part: str, seconds: float) -> Admitted:
    """Admit a part; a component that ends or blocks the process is refused, and the others are admitted without it."""
    skipped: dict[str, dict[str, str]] = {}
    allowed = ADMISSION_SECONDS if part == "shipped" else seconds
    while True:
        child = await launcher.admission(part, environment=_ON_CPU, skipped=skipped)
        found = await _admission(child, allowed)
        if isinstance(found, Admitted):
            return found
        if found.component in skipped:
            raise LaunchFailed(f"admission cannot continue without {found.component}: {found.why['reason']}")
        skipped[found.component] = found.why


def _log_refused(admitted: Admitted) -> None:
    for one in admitted.catalogue.refused:
        log.warning("a component was refused", component=one.name, code=one.code, reason=one.reason, hint=one.hint)


def _together(parts: Sequence[Admitted]) -> Admitted:
    components = [entry for part in parts for entry in part.catalogue.components]
    components.sort(key=lambda entry: (entry.kind, entry.name))
    refused = [one for part in parts for one in part.catalogue.refused]
    changed = {"components": components, "refused": refused}
    return parts[0].model_copy(update={"catalogue": parts[0].catalogue.model_copy(update=changed)})


def _of_user() -> list[Path]:
    """Where this user's programs keep what can be made again (XDG), if they have a home."""
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        return [(Path(cache) if cache else Path.home() / ".cache") / "tapeworks" / "catalogues"]
    except RuntimeError:
        return []


async def _admission(child: Child, seconds: float) -> Admitted | Stuck:
    """What an admission finds, or the component in which it ended or stayed. Raises LaunchFailed."""
    output = Output(lambda record: log.info("admission", text=record["text"]))
    printing = [
        asyncio.create_task(output.relay(child.stdout, "stdout")),
        asyncio.create_task(output.relay(child.stderr, "stderr")),
    ]
    reader, writer = await asyncio.open_unix_connection(sock=child.sock)
    closing = asyncio.create_task(child.close_when_gone(writer))
    begun: str | None = None
    try:
        while True:
            async with asyncio.timeout(seconds):
                # A catalogue is one large message; the operator's own code is in no sandbox.
                answer = await read_frame(reader, limit=MAX_MESSAGE_BYTES)
            if answer is None or "begun" not in answer:
                break
            begun = str(answer["begun"])
        status = await child.handle.wait()
        await asyncio.wait(printing, timeout=2)
    except FrameError as error:
        raise LaunchFailed(f"admission sent a catalogue that cannot be read: {error}") from error
    except TimeoutError:
        reason = f"its admission did not end within {seconds:g} s"
        return Stuck.of(begun, reason, _SLOW, FailureCode.COMPONENT_TIMEOUT)
    finally:
        closing.cancel()
        writer.close()
        child.handle.kill_group()
        await child.handle.wait()
        for task in printing:
            task.cancel()
    if answer is None:
        how = f"by {signal_name(-status)}" if status < 0 else f"with exit status {status}"
        tail = "\n".join(output.tail)
        return Stuck.of(begun, f"its admission ended the process {how}", _ENDS, FailureCode.COMPONENT_ERROR, tail)
    if not answer["ok"]:
        failure = answer["failure"]
        raise LaunchFailed(f"admission failed: {failure['message']}\n{failure.get('traceback_tail', '')}")
    return Admitted.model_validate(answer["report"])


def _recalled(files: Sequence[Path]) -> Admitted | None:
    for file in files:
        try:
            known = Admitted.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, ValidationError) as error:
            log.warning("a cached catalogue cannot be read", file=str(file), error=str(error))
        else:
            for place in files:  # everywhere the last to be forgotten, or edits of own components would push it out
                with suppress(OSError):
                    os.utime(place)
            return known
    return None


def _remember_all(files: Sequence[Path], admitted: Admitted) -> None:
    """In the work folder; in the user's cache too, where that can be written."""
    first, *others = files
    _remember(first, admitted)
    for file in others:
        try:
            _remember(file, admitted)
        except OSError as error:
            log.info("the catalogue is not cached for other work folders", reason=str(error))


def _remember(file: Path, admitted: Admitted) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(f".{os.getpid()}")
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
