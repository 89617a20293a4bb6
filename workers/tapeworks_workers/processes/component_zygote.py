"""The component zygote: forked from the base, it imports Tapeworks and the components, and forks runners.

`serve` is what the agent asks the base for. It answers with one datagram: under which digests its
components stand; then it takes fork requests as the base does. `catalogue` and `run_once` are what
its children are asked for, or plain processes where fork is not wanted. `serve_empty` is another one, which has
imported the engine and no component, for verifier B and the process that compares: what it imports would else be
imported for each bundle.

Before it imports a module of somebody else it names it to the agent in a datagram: where the import ends or blocks the
process, the agent knows which one it was. A module that changes the process for the others (a TensorFlow runtime,
without which nothing can be forked any more; a replaced method of Keras; `import_effects`) is named as `spoiled_by` in
the answer. In each case the agent starts another zygote without it (`component_loading`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import tapeworks
import tapeworks_workers
from tapeworks.schemas.jobs import RefusedComponent
from tapeworks_workers.processes import base_zygote
from tapeworks_workers.processes.frames import encode
from tapeworks_workers.processes.import_effects import (
    DESCRIPTORS_CLOSED,
    ImportGuard,
    adopting_orphans,
    described,
    identity,
)

_dumps = json.dumps
"""As it was before any module of somebody else could replace it."""
RUNS_OPERATIONS = "a TensorFlow operation runs while the module is imported"


def serve(
    sock: socket.socket,
    *,
    lifeline: base_zygote.DeathPipe,
    components: Sequence[str],
    refused: Mapping[str, Mapping[str, str]],
    targets: Sequence[str],
    packages: Sequence[Mapping[str, Any]] = (),
    check_each: bool = False,
) -> None:
    """Load, say what was loaded, and fork until the agent closes its end.

    `components`: paths of users' own files and folders; `refused`: those that are not to be loaded, with `reason`,
    `code` and `hint`; `targets`: functions that children will be asked for, imported now so that they need not;
    `packages`: uploaded ones, each with `id`, `version`, the folder `root` of its modules and the `modules` to import;
    `check_each`: compare the process after each import, to find the module that patches another one.
    """

    def begin(unit: str) -> None:
        sock.send(_dumps({"begun": unit}).encode())

    watch = ImportWatch(begin, sock.fileno(), lifeline.pipe, check_each=check_each)
    try:
        loaded = load(components, refused=refused, targets=targets, packages=packages, watch=watch)
    except Exception as error:
        sock.send(_dumps({"ready": False, "error": f"{type(error).__name__}: {error}"}).encode())
        raise
    if not watch.channel_is_open():
        os._exit(DESCRIPTORS_CLOSED)
    del watch  # what it recorded is not for the children
    sock.send(_dumps(loaded).encode())
    if loaded["ready"]:
        base_zygote.serve(sock, lifeline)


def serve_empty(sock: socket.socket, *, lifeline: base_zygote.DeathPipe, targets: Sequence[str]) -> None:
    """The same without a single component: for children that are to import those of a bundle, and no others."""
    for target in targets:
        base_zygote.resolve(target)
    sock.send(_dumps({"ready": not base_zygote.runtime_initialized(), "error": "a TensorFlow runtime"}).encode())
    base_zygote.serve(sock, lifeline)


def run_once(
    sock: socket.socket, *, components: Sequence[str], refused: Mapping[str, Mapping[str, str]], target: str
) -> None:
    """In a plain process: load, then do what a child of the zygote would."""
    load(components, refused=refused, targets=[target])
    base_zygote.resolve(target)(sock)


def catalogue(
    sock: socket.socket,
    *,
    admission: str,
    part: str,
    skipped: Mapping[str, Mapping[str, str]],
    components: Sequence[str] | None = None,
    refused: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Admit this part of what is registered, in this process, but for what is `skipped` (kind and name → why).

    Sends a frame before each component that is tried, `{"begun": kind and name}`, and one with the result. A plain
    process is given the paths to load first.
    """
    try:
        if components is not None:
            load(components, refused=refused or {}, targets=[])
        admitted = base_zygote.resolve(admission)(
            part, skipped=skipped, begin=lambda name: sock.sendall(encode({"begun": name}))
        ).model_dump(mode="json")
        admitted["distributions"] = distributions()
        result = {"ok": True, "report": {"versions": base_zygote.import_tensorflow(), "catalogue": admitted}}
    except Exception as error:
        traceback.print_exc()
        result = {"ok": False, "failure": base_zygote.failure_of(error)}
    sock.sendall(encode(result))


class ImportWatch:
    """What a zygote does around each import of somebody else's module.

    `begin` is given the module's path or name before its import; the descriptors `channel` and `lifeline` must stay
    what they are.
    """

    def __init__(self, begin: Callable[[str], None], channel: int, lifeline: int, *, check_each: bool) -> None:
        self.begin = begin
        self._channel = channel
        self._channel_was = identity(channel)
        self._descriptors = (channel, lifeline)
        self._check_each = check_each
        self._guard: ImportGuard | None = None

    def channel_is_open(self) -> bool:
        """Whether the agent can be answered."""
        return identity(self._channel) == self._channel_was

    def start(self) -> None:
        """Record the process: what is ours has been imported."""
        self._guard = ImportGuard(self._descriptors)

    def spoiled(self) -> dict[str, str] | None:
        """After an import: why no process may be forked from this one any more."""
        assert self._guard is not None  # noqa: S101 — started
        found = self._guard.effect()
        if found is None and self._check_each and (patches := self._guard.patches()):
            found = described(patches)
        self._guard.extend()
        return None if found is None else {"reason": found[0], "hint": found[1]}

    def patched(self) -> bool:
        """After the last import: whether one of them patched another module. Asked once, since it takes 0.1 s."""
        assert self._guard is not None  # noqa: S101 — started
        return bool(self._guard.patches())


def load(
    components: Sequence[str],
    *,
    refused: Mapping[str, Mapping[str, str]],
    targets: Iterable[str],
    packages: Sequence[Mapping[str, Any]] = (),
    watch: ImportWatch | None = None,
) -> dict[str, Any]:
    """Import installed and given components. What cannot be imported stands in `registry.refused`."""
    from tapeworks.components.loading import BUILT_IN, installed_modules, load_components, load_module, load_package

    for target in targets:
        base_zygote.resolve(target)
    load_module(BUILT_IN, keep_going=True)
    installed = [name for name in installed_modules() if name != BUILT_IN]
    imports: list[tuple[str, str, Callable[[], Any]]] = [
        *((name, name, partial(load_module, name, keep_going=True)) for name in installed),
        *((path, Path(path).name, partial(load_components, [Path(path)], keep_going=True)) for path in components),
    ]
    if spoiled := _import_all(imports, refused, watch):
        return {"ready": False, **spoiled}
    for package in packages:
        if package["id"] in refused:
            _refuse(", ".join(package["modules"]), refused[package["id"]])
            continue
        load_package(Path(package["root"]), package["modules"], id=package["id"], version=package["version"])
        if base_zygote.runtime_initialized():
            return {"ready": False, "spoiled_by": package["id"], "reason": RUNS_OPERATIONS}
    return {"ready": True, "parts": digests()}


def _import_all(
    imports: Sequence[tuple[str, str, Callable[[], Any]]],
    refused: Mapping[str, Mapping[str, str]],
    watch: ImportWatch | None,
) -> dict[str, Any] | None:
    """Import modules of somebody else, each with its unit and name; why no process can be forked after that, if so."""
    for unit, name, _ in imports:
        if unit in refused:
            _refuse(name, refused[unit])
    wanted = [one for one in imports if one[0] not in refused]
    if not wanted:
        return None
    with adopting_orphans():
        if watch is not None:
            watch.start()
        for unit, name, import_ in wanted:
            if spoiled := _imported(unit, name, import_, watch):
                return {"spoiled_by": unit, **spoiled}
        return {"check_each": True} if watch is not None and watch.patched() else None


def _imported(unit: str, name: str, import_: Callable[[], Any], watch: ImportWatch | None) -> dict[str, str] | None:
    """Import a module of somebody else; why the process cannot be forked after it, if so."""
    if watch is not None:
        watch.begin(unit)
    try:
        import_()
    except Exception as error:
        _refuse(name, {"reason": f"{type(error).__name__}: {error}"})
    if base_zygote.runtime_initialized():
        return {"reason": RUNS_OPERATIONS}
    return watch.spoiled() if watch is not None else None


def _refuse(name: str, reason: Mapping[str, str]) -> None:
    from tapeworks.components.registry import registry

    registry.refused.append(RefusedComponent.model_validate({"name": name, **reason}))


def distributions() -> dict[str, str]:
    """What is installed here: normalised name → version."""
    found = [(one.metadata["Name"], one.version) for one in metadata.distributions()]
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found if name}


def digests() -> dict[str, str]:
    """Returns the sha-256 digests of the parts of the catalogue; without `own` if only built-in components exist.

    `shipped`: Tapeworks' sources, its components among them, and what is installed; `own`: that, and every other
    component and refusal.
    """
    from tapeworks.components.registry import registry

    shipped = [f"{name} {version}" for name, version in base_zygote.import_tensorflow().items()]
    shipped += [f"installed {name} {version}" for name, version in sorted(distributions().items())]
    for package in (tapeworks, tapeworks_workers):
        folder = Path(str(package.__file__)).parent
        for file in sorted(folder.rglob("*.py")):
            shipped.append(f"{file.relative_to(folder)} {hashlib.sha256(file.read_bytes()).hexdigest()}")
    own = sorted(f"{c.kind}|{c.name}|{c.version}|{c.digest}" for c in registry if not c.shipped)
    own += [f"refused {one.name}: {one.reason}" for one in registry.refused]
    parts = {"shipped": shipped} | ({"own": shipped + own} if own else {})
    return {part: hashlib.sha256("\n".join(lines).encode()).hexdigest() for part, lines in parts.items()}
