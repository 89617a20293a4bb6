"""The rows of assets: created once for the same bytes, read with the job that looks at them, deleted when free.

What a dataset holds and whether a package was admitted is known from that job alone, so nothing here can contradict it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, Select, and_, delete, func, select, update

from tapeworks.errors import ProblemCode
from tapeworks.schemas.jobs import FINAL, JobKind, State
from tapeworks_service.database.engine import Transaction
from tapeworks_service.database.queries import assets_and_looks
from tapeworks_service.database.tables import assets, job_inputs, jobs, upload_parts, uploads
from tapeworks_service.ids import new_id
from tapeworks_service.problems import Problem, invalid_value, not_found
from tapeworks_service.queue import queue
from tapeworks_service.queue.inputs import Input, PinnedFile
from tapeworks_service.queue.job_draft import NewJob
from tapeworks_service.queue.requirements import Requirements
from tapeworks_service.storage.deletions import schedule_delete

PREFIXES = {"dataset": "ds", "package": "pkg", "bundle": "bundle"}
LOOKS = {"dataset": JobKind.INSPECT, "package": JobKind.ADMIT}
"""The kind of job that looks at an asset."""
_FINAL = [state.value for state in FINAL]


@dataclass(frozen=True)
class NewAsset:
    """An asset to be."""

    project_id: str
    kind: str
    name: str
    version: str | None
    """None: the next number of the name."""
    format: str
    document: Mapping[str, Any]


def of_project(project_id: str, kind: str) -> Select[Any]:
    """A project's assets of a kind, each with the state and the document of its job."""
    return assets_and_looks(assets.c.project_id == project_id, assets.c.kind == kind)


async def find(tx: Transaction, project_id: str, kind: str, asset_id: str) -> RowMapping:
    """One of them. Raises 404."""
    row = await tx.one(of_project(project_id, kind).where(assets.c.id == asset_id))
    if row is None:
        raise not_found(kind, asset_id)
    return row


async def completed_upload(tx: Transaction, project_id: str, upload_id: str, *, locked: bool = False) -> RowMapping:
    """A complete upload of a project. Raises 422."""
    own = (uploads.c.project_id == project_id, uploads.c.job_id.is_(None), uploads.c.id == upload_id)
    statement = select(uploads).where(*own)
    row = await tx.one(statement.with_for_update() if locked else statement)
    if row is None:
        raise invalid_value("/upload_id", f"there is no upload {upload_id[:100]!r}", "POST /v1/uploads begins one.")
    if row["completed_at"] is None:
        raise invalid_value("/upload_id", f"the upload {upload_id} is not complete", "Send its parts, complete it.")
    return row


async def create(tx: Transaction, new: NewAsset, upload_id: str) -> tuple[RowMapping, bool]:
    """The asset of these bytes and options under this name, and whether it is new. Raises 409, 422.

    The same again is the same asset; where no worker could look at it, another try is queued.
    """
    await tx.alone(f"asset {new.project_id} {new.kind} {new.name}")
    upload = await completed_upload(tx, new.project_id, upload_id, locked=True)
    named = of_project(new.project_id, new.kind).where(assets.c.name == new.name)
    same = named.where(assets.c.sha256 == upload["sha256"], assets.c.format == new.format)
    options = new.document.get("options")
    known = next(
        (
            row
            for row in await tx.all(same.order_by(assets.c.asset_seq.desc()))
            if row["document"].get("options") == options
        ),
        None,
    )
    if known is not None and new.version in (None, known["version"]):
        if known["job_state"] not in (State.FAILED.value, State.CANCELLED.value):
            return known, False
        await _look_again(tx, known)
        return await find(tx, new.project_id, new.kind, known["id"]), False
    version = new.version or str(await _next(tx, new))
    if await tx.one(named.where(assets.c.version == version)) is not None:
        detail = f"the {new.kind} {new.name!r} already has a version {version!r}, and versions cannot change"
        raise Problem(ProblemCode.CONFLICT, detail, hint="Upload the changed content under a new version.")
    row = {
        "project_id": new.project_id, "id": new_id(PREFIXES[new.kind]), "kind": new.kind, "name": new.name,
        "version": version, "format": new.format, "bytes": upload["bytes"], "sha256": upload["sha256"],
        "key": upload["key"], "document": dict(new.document), "created_at": await tx.now(), "job_id": None,
    }  # fmt: skip
    if new.kind in LOOKS:
        row["job_id"] = await _look(tx, row)
    await tx.execute(assets.insert().values(row))
    return await find(tx, new.project_id, new.kind, row["id"]), True


async def _next(tx: Transaction, new: NewAsset) -> int:
    own = (assets.c.project_id == new.project_id, assets.c.kind == new.kind, assets.c.name == new.name)
    taken = [row["version"] for row in await tx.all(select(assets.c.version).where(*own))]
    return max((int(version) for version in taken if version.isdigit()), default=0) + 1


async def _look(tx: Transaction, asset: Mapping[Any, Any]) -> str:
    """Queue the job that looks at an asset; its id."""
    pin = PinnedFile.of(asset["kind"], asset)
    job = NewJob(
        id=new_id("job"),
        project_id=asset["project_id"],
        kind=LOOKS[asset["kind"]].value,
        spec={},
        components=[],
        needs=Requirements.of_a_look(packages=asset["kind"] == "package"),
        lineage={},
        inputs=[Input(asset["id"], asset["id"], pin)],
        name=f"{asset['name']} {asset['version']}",
    )
    await queue.enqueue(tx, job)
    return job.id


async def _look_again(tx: Transaction, asset: RowMapping) -> None:
    job_id = await _look(tx, asset)
    await tx.execute(update(assets).where(assets.c.id == asset["id"]).values(job_id=job_id))


async def remove(tx: Transaction, project_id: str, kind: str, asset_id: str) -> None:
    """Delete an asset, its job, and its file where no other asset has it. Raises 404, 409 `in_use`."""
    own = (assets.c.project_id == project_id, assets.c.kind == kind, assets.c.id == asset_id)
    row = await tx.one(select(assets).where(*own).with_for_update())
    if row is None:
        raise not_found(kind, asset_id)
    if users := await _users(tx, row):
        detail = f"{users[0]} uses it" if len(users) == 1 else f"{len(users)} jobs use it"
        hint = "Wait until they have ended, or cancel them."
        raise Problem(ProblemCode.IN_USE, detail, hint=hint, extra={"used_by": users[:100]})
    await tx.execute(delete(assets).where(assets.c.id == asset_id))
    await tx.execute(delete(jobs).where(jobs.c.id == row["job_id"]))
    await drop_file(tx, row)


async def _users(tx: Transaction, asset: RowMapping) -> list[str]:
    """Unfinished jobs that read it, its own look among them."""
    its_job = and_(jobs.c.project_id == job_inputs.c.project_id, jobs.c.id == job_inputs.c.job_id)
    of_asset = (job_inputs.c.project_id == asset["project_id"], job_inputs.c.source_id == asset["id"])
    users = select(jobs.c.id).join(job_inputs, its_job).where(*of_asset, jobs.c.state.not_in(_FINAL))
    return [row["id"] for row in await tx.all(users.order_by(jobs.c.queue_seq))]


async def drop_file(tx: Transaction, file: Mapping[Any, Any]) -> None:
    """Forget an upload of a project, with its bytes, where no asset has them."""
    same = (assets.c.project_id == file["project_id"], assets.c.key == file["key"])
    if (await tx.execute(select(func.count()).where(*same))).scalar_one():
        return
    of_key: ColumnElement[bool] = and_(uploads.c.project_id == file["project_id"], uploads.c.key == file["key"])
    for row in await tx.all(select(uploads).where(of_key, uploads.c.job_id.is_(None))):
        await tx.execute(delete(upload_parts).where(upload_parts.c.upload_id == row["id"]))
        await tx.execute(delete(uploads).where(uploads.c.project_id == row["project_id"], uploads.c.id == row["id"]))
        await schedule_delete(tx, [f"{row['project_id']}/uploads/{row['id']}", row["key"]])
