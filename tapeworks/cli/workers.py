"""Commands about workers: who takes jobs, what runs where, and draining one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from tapeworks.cli.console import ExitCode, Json, err, out, session_of, show_json, table
from tapeworks.cli.jobs.progress import age
from tapeworks.cli.name_resolution import worker_of
from tapeworks.errors import NotFound
from tapeworks.schemas.jobs import Device, WorkerInfo


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (workers, drain, undrain):
        app.command()(command)


def workers(
    context: typer.Context,
    worker_id: Annotated[str | None, typer.Argument(help="Only this worker.", show_default=False)] = None,
    ready: Annotated[bool, typer.Option("--ready", help="Exit with code 1 unless a worker accepts jobs.")] = False,
    json: Json = False,
) -> None:
    """List workers with their devices."""
    with session_of(context).client() as client:
        found = client.workers()
    if worker_id is not None:
        try:
            found = [worker_of(found, worker_id)]
        except NotFound:
            if not ready:
                raise
            found = []
    _show(found, json=json)
    if ready and not any(worker.state == "ready" for worker in found):
        raise typer.Exit(ExitCode.NO)


def drain(context: typer.Context, worker_id: str, json: Json = False) -> None:
    """Have a worker save its jobs, hand them back, and take no more."""
    with session_of(context).client() as client:
        _show([client.drain(worker_of(client.workers(), worker_id).id)], json=json)


def undrain(context: typer.Context, worker_id: str, json: Json = False) -> None:
    """Let a drained worker take jobs again."""
    with session_of(context).client() as client:
        _show([client.undrain(worker_of(client.workers(), worker_id).id)], json=json)


def _show(found: Sequence[WorkerInfo], *, json: bool) -> None:
    if json:
        show_json(found)
        return
    rows = table("ID", "STATE", "DEVICES", "JOBS", "TENSORFLOW", "HEARD")
    for worker in found:
        devices = ", ".join(_device(device) for device in worker.devices)
        heard = f"{age(worker.heartbeat_at)} ago"
        rows.add_row(
            worker.id, worker.state, devices, " ".join(worker.jobs), worker.versions.get("tensorflow", ""), heard
        )
    out().print(rows)
    for worker in found:
        for refused in worker.refused:
            hint = f". {refused.hint}" if refused.hint else ""
            err().print(f"{worker.id} refused {refused.name}: {refused.reason}{hint}", markup=False)


def _device(device: Device) -> str:
    size = f" {device.memory_bytes / 2**30:.0f} GiB" if device.memory_bytes and device.kind == "gpu" else ""
    return f"{device.name or device.id}{size}" + (" busy" if device.job_id else "")
