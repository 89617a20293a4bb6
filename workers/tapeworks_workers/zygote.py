"""The component zygote: forked from the base, it imports Tapeworks and the components, and forks runners.

`serve` is what the agent asks the base for. It answers with one datagram: under which digests its
components stand; then it takes fork requests as the base does. `catalogue` and `run_once` are what
its children are asked for, or plain processes where fork is not wanted. `serve_empty` is another one, which has
imported the engine and no component, for verifier B and the process that compares: what it imports would else be
imported for each bundle.

A component file that runs a TensorFlow operation while it is imported would initialise the runtime
here, and no child could be forked any more: the answer then names it as `spoiled_by`, and the
agent starts another zygote without it.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import tapeworks
import tapeworks_workers
from tapeworks.jobs import RefusedComponent
from tapeworks_workers import base


def serve(
    sock: socket.socket,
    *,
    lifeline: base.Lifeline,
    components: Sequence[str],
    refused: Mapping[str, str],
    targets: Sequence[str],
    packages: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Load, say what was loaded, and fork until the agent closes its end.

    `components`: paths of users' own files and folders; `refused`: those that are not to be loaded, and why;
    `targets`: functions that children will be asked for, imported now so that they need not; `packages`: uploaded
    ones, each with `id`, `version`, the folder `root` of its modules and the `modules` to import.
    """
    try:
        loaded = load(components, refused=refused, targets=targets, packages=packages)
    except Exception as error:
        sock.send(json.dumps({"ready": False, "error": f"{type(error).__name__}: {error}"}).encode())
        raise
    sock.send(json.dumps(loaded).encode())
    if loaded["ready"]:
        base.serve(sock, lifeline)


def serve_empty(sock: socket.socket, *, lifeline: base.Lifeline, targets: Sequence[str]) -> None:
    """The same without a single component: for children that are to import those of a bundle, and no others."""
    for target in targets:
        base.resolve(target)
    sock.send(json.dumps({"ready": not base.runtime_initialized(), "error": "a TensorFlow runtime"}).encode())
    base.serve(sock, lifeline)


def run_once(sock: socket.socket, *, components: Sequence[str], target: str) -> None:
    """In a plain process: load, then do what a child of the zygote would."""
    load(components, refused={}, targets=[target])
    base.resolve(target)(sock)


def catalogue(*, admission: str, part: str, components: Sequence[str] | None = None) -> dict[str, Any]:
    """Admit this part of what is registered, in this process. A plain process is given the paths to load first."""
    if components is not None:
        load(components, refused={}, targets=[])
    admitted: dict[str, Any] = base.resolve(admission)(part).model_dump(mode="json")
    admitted["distributions"] = distributions()
    return {"versions": base.import_tensorflow(), "catalogue": admitted}


def load(
    components: Sequence[str],
    *,
    refused: Mapping[str, str],
    targets: Iterable[str],
    packages: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Import installed and given components. What cannot be imported stands in `registry.refused`."""
    from tapeworks.components import registry
    from tapeworks.loading import load_components, load_installed, load_package

    for target in targets:
        base.resolve(target)
    load_installed(keep_going=True)
    for path in components:
        reason = refused.get(path)
        try:
            if reason is None:
                load_components([Path(path)], keep_going=True)
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {error}"
        if reason is not None:
            registry.refused.append(RefusedComponent(name=Path(path).name, reason=reason))
        if base.runtime_initialized():
            return {"ready": False, "spoiled_by": path}
    for package in packages:
        reason = refused.get(package["id"])
        if reason is None:
            load_package(Path(package["root"]), package["modules"], id=package["id"], version=package["version"])
        else:
            registry.refused.append(RefusedComponent(name=", ".join(package["modules"]), reason=reason))
        if base.runtime_initialized():
            return {"ready": False, "spoiled_by": package["id"]}
    return {"ready": True, "parts": digests()}


def distributions() -> dict[str, str]:
    """What is installed here: normalised name → version."""
    found = [(one.metadata["Name"], one.version) for one in metadata.distributions()]
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found if name}


def digests() -> dict[str, str]:
    """sha-256 over all that each part of the catalogue depends on; no `own` where nothing was added to what we ship.

    `shipped`: Tapeworks' sources, its components among them, and what is installed; `own`: that, and every other
    component and refusal.
    """
    from tapeworks.components import registry

    shipped = [f"{name} {version}" for name, version in base.import_tensorflow().items()]
    shipped += [f"installed {name} {version}" for name, version in sorted(distributions().items())]
    for package in (tapeworks, tapeworks_workers):
        folder = Path(str(package.__file__)).parent
        for file in sorted(folder.rglob("*.py")):
            shipped.append(f"{file.relative_to(folder)} {hashlib.sha256(file.read_bytes()).hexdigest()}")
    own = sorted(f"{c.kind}|{c.name}|{c.version}|{c.digest}" for c in registry if not c.shipped)
    own += [f"refused {one.name}: {one.reason}" for one in registry.refused]
    parts = {"shipped": shipped} | ({"own": shipped + own} if own else {})
    return {part: hashlib.sha256("\n".join(lines).encode()).hexdigest() for part, lines in parts.items()}
