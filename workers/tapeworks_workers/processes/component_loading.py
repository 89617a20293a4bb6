"""Loads components in a zygote, and finds the modules that would end, block or change it for the others.

The zygote names each module before it imports it. Where it ends, gives no answer in time or reports that a module
changed its process, that module is refused with the reason, and another zygote is started without it: n such modules
cost n starts, and the modules that load well cost nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from tapeworks.components.loading import modules_in
from tapeworks.errors import ComponentError, FailureCode
from tapeworks_workers.processes.exit_failures import signal_name
from tapeworks_workers.processes.import_effects import DESCRIPTORS_CLOSED
from tapeworks_workers.processes.zygote_client import LOAD_SECONDS, LaunchFailed, NoAnswer, Zygote

EXIT_SECONDS = 2.0
"""A zygote whose channel is closed ends within this time, or it lives on without its channel."""
_MOVE = "Move it into a function, __init__ or build()."
_OTHER_REASON = "its import changes the process that jobs are started from"

Stamp = tuple[tuple[str, int, int], ...]
Refusals = Mapping[str, Mapping[str, str]]
Start = Callable[[dict[str, Any]], Awaitable[Zygote]]
"""Starts a zygote that loads what the arguments of `zygote.serve` say."""

log = structlog.get_logger(__name__)


@dataclass
class ComponentLoading:
    """Loads components, and remembers which modules were refused until a source file beside them changes.

    `start`: see there; `seconds`: what the import of one module may take; `trusted`: whether what a zygote says is
    believed: one in a sandbox has `LOAD_SECONDS` for everything; `known`: what another one has refused already.
    """

    start: Start
    seconds: float
    trusted: bool = True
    known: Refusals = field(default_factory=dict)
    _refused: dict[str, tuple[Stamp, dict[str, str]]] = field(default_factory=dict)

    async def load(
        self, components: Sequence[Path], packages: Sequence[Mapping[str, Any]], **arguments: Any
    ) -> tuple[Zygote, dict[str, str], Refusals]:
        """A zygote that has loaded them, the digests of its parts, and the modules that were refused.

        Raises LaunchFailed where that is not a module's fault.
        """
        units = units_of(components)
        refused = {unit: dict(reason) for unit, reason in self.known.items()}
        refused |= {unit: reason for unit, (stamp, reason) in self._refused.items() if _stamp(unit) == stamp}
        loading = _Loading(self, refused, None if self.trusted else time.monotonic() + LOAD_SECONDS)
        while True:
            request = {
                "components": units, "packages": list(packages), "refused": refused,
                "check_each": loading.check_each, **arguments,
            }  # fmt: skip
            zygote = await self.start(request)
            try:
                loaded = await loading.answer(zygote)
            except BaseException:
                zygote.handle.kill_group()
                await zygote.close()
                raise
            if loaded is not None:
                self._refused = {unit: (_stamp(unit), reason) for unit, reason in refused.items()}
                return zygote, strings(loaded.get("parts")), refused
            zygote.handle.kill_group()
            await zygote.close()


@dataclass
class _Loading:
    """One call of `ComponentLoading.load`, over several zygotes."""

    of: ComponentLoading
    refused: dict[str, dict[str, str]]
    deadline: float | None
    check_each: bool = False

    async def answer(self, zygote: Zygote) -> dict[str, Any] | None:
        """What a zygote that is ready says; None where another one must be started: `refused` has changed."""
        begun: str | None = None
        others = False
        while True:
            try:
                answer = await zygote.answer(self._seconds(begun))
            except NoAnswer:
                if begun is None:
                    raise
                reason = f"its import did not end within {self.of.seconds:g} s"
                self._refuse(begun, reason, code=FailureCode.COMPONENT_TIMEOUT)
                return None
            except LaunchFailed:
                if begun is None:
                    raise
                if self.check_each or not others:
                    self._refuse(begun, *await _ended(zygote))
                    return None
                self.check_each = True  # it may have been the victim of a module before it
                return None
            if isinstance(answer.get("begun"), str):
                others = begun is not None
                begun = answer["begun"][:4096]
            elif answer.get("ready"):
                return answer
            elif answer.get("check_each") and not self.check_each:
                self.check_each = True
                return None
            elif isinstance(answer.get("spoiled_by"), str):
                reason, hint = (str(answer.get(name, default))[:400] for name, default in _DEFAULTS)
                self._refuse(answer["spoiled_by"], reason, hint=hint)
                return None
            else:
                raise LaunchFailed(f"the component zygote could not load: {str(answer.get('error'))[:1000]}")

    def _seconds(self, begun: str | None) -> float:
        seconds = LOAD_SECONDS if begun is None else self.of.seconds
        if self.deadline is None:
            return seconds
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise LaunchFailed(f"the components were not loaded in {LOAD_SECONDS:g} s")
        return min(seconds, left)

    def _refuse(
        self, unit: str, reason: str, hint: str = _MOVE, *, code: FailureCode = FailureCode.COMPONENT_ERROR
    ) -> None:
        if unit in self.refused:  # or it would be tried for ever
            raise LaunchFailed(f"the component zygote cannot load without {unit}: {reason}")
        log.info("a module of components cannot be loaded with the others", module=unit, reason=reason)
        self.refused[unit] = {"reason": reason, "hint": hint, "code": code.value}


_DEFAULTS = (("reason", _OTHER_REASON), ("hint", _MOVE))


async def _ended(zygote: Zygote) -> tuple[str, str]:
    """How a module ended the process that imported it, with the remedy."""
    try:
        async with asyncio.timeout(EXIT_SECONDS):
            status = await zygote.handle.wait()
    except TimeoutError:
        status = DESCRIPTORS_CLOSED
    if status == DESCRIPTORS_CLOSED:
        return "its import closes the descriptors of its process", "Close only what the module opened."
    if status >= 0:
        reason = f"its import ends the process with exit status {status}"
        return reason, "Raise an exception in place of os._exit, and start other programs with subprocess."
    reason = f"its import ends the process by {signal_name(-status)}"
    return reason, "Import it in a Python of its own: `python -X faulthandler`."


def units_of(components: Sequence[Path]) -> list[str]:
    """The modules of these paths, each of which is refused or served by itself; a path where it has none."""
    return [unit for path in components for unit in _units(path)]


def _units(path: Path) -> list[str]:
    try:
        return [str(file) for file in modules_in(path)]
    except ComponentError:
        return [str(path)]  # the zygote says what is wrong with it


def _stamp(unit: str) -> Stamp:
    """The source files of a module and beside it: two that are equal mean that nothing changed."""
    path = Path(unit)
    files = {*path.parent.glob("*.py"), *(path.rglob("*.py") if path.is_dir() else ())} if path.is_absolute() else ()
    return tuple(sorted(_looks(file) for file in files))


def _looks(file: Path) -> tuple[str, int, int]:
    try:
        status = file.stat()
    except OSError:
        return str(file), 0, 0  # removed since it was listed
    return str(file), status.st_mtime_ns, status.st_size


def strings(value: Any) -> dict[str, str]:
    """What a zygote says in pairs of strings; {} for anything else."""
    if not isinstance(value, dict):
        return {}
    return {str(key)[:100]: str(item)[:100] for key, item in value.items()}
