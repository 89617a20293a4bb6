"""The command about workers: who takes jobs, and what runs where."""

from __future__ import annotations

import typer

from tapeworks.cli.console import Json, err, out, session_of, show_json, table
from tapeworks.cli.progress import age
from tapeworks.jobs import Device


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(workers)


def workers(context: typer.Context, json: Json = False) -> None:
    """List workers with their devices."""
    with session_of(context).client() as client:
        found = client.workers()
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
            err().print(f"{worker.id} refused {refused.name}: {refused.reason}", markup=False)


def _device(device: Device) -> str:
    size = f" {device.memory_bytes / 2**30:.0f} GiB" if device.memory_bytes and device.kind == "gpu" else ""
    return f"{device.name or device.id}{size}" + (" busy" if device.job_id else "")
