"""`tapeworks doctor`: what this machine can do as a worker, and which layers its sandbox has."""

from __future__ import annotations

import asyncio
import os
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import typer
from rich.text import Text

from tapeworks.cli.console import ExitCode, out, show_json, table
from tapeworks_workers.inputs.sql_queries import BadConnections, answered, connections_of
from tapeworks_workers.inputs.sql_query import Query
from tapeworks_workers.machine.devices import Devices
from tapeworks_workers.sandbox import isolation
from tapeworks_workers.sandbox.cgroups import Cgroups, CgroupsUnavailable

_ASKED_SECONDS = 10.0


def examine(*, json: bool) -> None:
    """Print what was found; exits with 1 where a layer of the sandbox is missing or a database does not answer."""
    found = isolation.of_this_machine()
    connections = _connections()
    report: dict[str, object] = {
        "versions": {name: _version(name) for name in ("tapeworks", "tensorflow", "keras")},
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "devices": [device.model_dump(mode="json") for device in Devices().listing()],
        "sandbox": dict(found.layers),
        "memory": _memory(),
        "connections": connections,
    }
    if json:
        show_json(report)
    else:
        _show(report, found)
    if found.missing or any(state != isolation.ON for state in connections.values()):
        raise typer.Exit(ExitCode.NO)


def _connections() -> dict[str, str]:
    """Name → `on`, or why the database does not answer."""
    named = os.environ.get("TAPEWORKS_WORKER_CONNECTIONS_FILE")
    try:
        urls = connections_of(Path(named) if named else None)
    except BadConnections as error:
        return {"": str(error)}
    with tempfile.TemporaryDirectory() as folder:
        asked = {name: Query(url, "SELECT 1 AS one", f"{folder}/rows", 1, 1 << 20, _ASKED_SECONDS)
                 for name, url in urls.items()}  # fmt: skip
        return {name: asyncio.run(answered(one)).get("error", isolation.ON) for name, one in asked.items()}


def _memory() -> str:
    """How the memory of sandboxes is counted."""
    named = os.environ.get("TAPEWORKS_WORKER_CGROUP")
    try:
        return f"cgroups below {Cgroups.found(Path(named) if named else None).folder}"
    except CgroupsUnavailable as error:
        return f"measured by polling: {error}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _show(report: dict[str, object], found: isolation.Sandbox) -> None:
    console = out()
    versions = report["versions"]
    assert isinstance(versions, dict)  # noqa: S101 — made above
    console.print(", ".join(f"{name} {number or 'is not installed'}" for name, number in versions.items()))
    devices = report["devices"]
    assert isinstance(devices, list)  # noqa: S101 — made above
    console.print(f"{report['cpus']} CPUs, devices: {', '.join(device['id'] for device in devices) or 'none'}")
    rows = table("SANDBOX", "")
    for layer, state in found.layers.items():
        rows.add_row(layer, Text(state, style="green" if state == isolation.ON else "red"))
    console.print(rows)
    console.print(f"Memory of sandboxes: {report['memory']}")
    connections = report["connections"]
    assert isinstance(connections, dict)  # noqa: S101 — made above
    if connections:
        databases = table("DATABASE", "")
        for name, state in connections.items():
            databases.add_row(name, Text(state, style="green" if state == isolation.ON else "red"))
        console.print(databases)
    if found.missing:
        console.print("With TAPEWORKS_SANDBOX=required this machine would not accept uploaded packages.")
