"""What nothing refers to goes, what is needed stays, and a disk is never filled to the brim."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update
from typer.testing import CliRunner

from tapeworks.cli.main import app
from tapeworks_service.database.engine import Database
from tapeworks_service.database.tables import deletions, fits, workers
from tapeworks_service.maintenance.sweeper import sweep_files, sweep_rows
from tapeworks_service.storage.deletions import delete_noted
from tapeworks_service.storage.store import Store
from tapeworks_service.wakeups import WakeHub
from tests.support.hand_worker import HandLease, spec
from tests.support.uploading import PART, begin, digest_header, send


def files(store: Path) -> set[str]:
    return {path.relative_to(store).as_posix() for path in store.rglob("*") if path.is_file() and path.name != "probe"}


def on(url: str, work: Callable[[Database], Any]) -> Any:
    """Run something on the database of a service, beside it."""

    async def main() -> Any:
        database = Database(url, hub=WakeHub(), busy_seconds=5)
        await database.open()
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(main())


def test_a_sweep_takes_old_strangers_and_nothing_else(own_service: Any) -> None:
    store = own_service.folder / "artifacts"
    with own_service() as (_, worker):
        worker.register()
        finished = worker.submit()["id"]
        lease = worker.lease()
        lease.checkpoint(b"state", step=1)
        lease.succeed(b"bundle")
        held = worker.submit()["id"]
        running = worker.lease()
        running.upload("complete.bin", b"complete, and no row refers to it yet")
        begun = running.begin("begun.bin", b"x" * 100).json()
        running.part(begun["id"], 1, b"x" * 100)
    needed = files(store)
    assert any(f"/jobs/{finished}/" in key for key in needed)
    assert any(key.endswith(f"uploads/{begun['id']}/whole") for key in needed)
    strangers = [
        f"default/jobs/{held}/attempts/1/lost.bin",
        "default/uploads/up_gone/whole",
        "default/jobs/job_gone/a/b",
    ]
    for key in [*strangers, "default/new.bin"]:
        path = store / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"nobody's")
    for path in store.rglob("*"):
        if path.name != "new.bin":
            os.utime(path, (0, 0))
    swept = on(own_service.url, lambda database: sweep_files(database, Store(store)))
    assert swept == len(strangers)
    assert files(store) == {*needed, "default/new.bin"}
    with own_service() as (client, worker):
        assert client.get(f"/v1/jobs/{finished}/model").content == b"bundle"
        again = HandLease(client, running.lease)
        assert again.complete(begun["id"]).is_success
        assert again.finish("succeeded").is_success


def test_what_an_attempt_left_goes_with_its_folders(own_service: Any) -> None:
    store = own_service.folder / "artifacts"
    with own_service() as (_, worker):
        worker.register()
        job_id = worker.submit(spec(training={"epochs": 1, "checkpoint": None}))["id"]
        lease = worker.lease()
        lease.upload("complete.bin", b"complete, and it becomes nothing")
        begun = lease.begin("begun.bin", b"x" * 100).json()
        lease.part(begun["id"], 1, b"x" * 100)
        assert lease.finish("failed", failure={"code": "non_finite", "message": "not a number"}).is_success
        assert worker.job(job_id)["state"] == "failed"

    async def delete(database: Database) -> list[Any]:
        await delete_noted(database, Store(store))
        async with database.read() as tx:
            return await tx.all(select(deletions))

    assert on(own_service.url, delete) == []
    assert [path for path in (store / "default").glob("*/*")] == []


def test_rows_that_served_their_purpose_go(own_service: Any) -> None:
    with own_service() as (client, worker):
        worker.register()
        worker.submit(spec(resources={"worker_labels": {"zone": "nowhere"}}))
        client.post(f"/v1/jobs/{worker.job_ids()[0]}/cancel")
        client.delete(f"/v1/jobs/{worker.job_ids()[0]}")
        validation = client.post("/v1/jobs/validate?trace=true", json=spec()).json()["id"]
        worker.lease().finish("succeeded", published={"result": {}})
        source = worker.submit(spec(training={"epochs": 1, "checkpoint": {"keep": 1}}))["id"]
        lease = worker.lease()
        first = lease.checkpoint(b"one", step=1)
        lease.fail("non_finite")
        retried = client.post(f"/v1/jobs/{source}/retry", json={"from": first}).json()["id"]
        worker.lease().finish("succeeded")
        assert worker.job(retried)["state"] == "succeeded"

    async def sweep(database: Database) -> tuple[int, int]:
        async with database.write() as tx:
            await tx.execute(update(workers).values(heartbeat_at=0))
        await sweep_rows(database, keep_validations=0.0)
        async with database.read() as tx:
            counts = [
                (await tx.execute(select(func.count()).select_from(table))).scalar_one() for table in (fits, workers)
            ]
        return counts[0], counts[1]

    kinds, workers_left = on(own_service.url, sweep)
    assert kinds == 1, "what the deleted job needed is forgotten"
    assert workers_left == 0
    with own_service() as (client, _):
        assert client.get(f"/v1/jobs/{validation}").status_code == 404
        assert client.get(f"/v1/jobs/{source}").status_code == 200


def test_an_upload_that_would_fill_the_disk_is_refused_and_all_else_goes_on(own_service: Any) -> None:
    with own_service(reserve_bytes=2**60) as (client, worker):
        worker.register()
        worker.submit()
        lease = worker.lease()
        refused = lease.begin("bundle.tar.gz", b"bundle")
        assert (refused.status_code, refused.json()["code"]) == (507, "storage_full")
        assert int(refused.headers["Retry-After"]) > 0
        assert lease.heartbeat().is_success
        assert worker.submit()["state"] == "queued"
        assert client.get("/healthz").is_success


# ── backup and restore ───────────────────────────────────────────────────────────────────────────


def tapeworks(*line: str, expect: int = 0) -> str:
    done = CliRunner().invoke(app, [*line], env={"COLUMNS": "200"})
    assert done.exit_code == expect, (done.stdout, done.stderr)
    return done.stdout + done.stderr


@pytest.fixture
def backed_up(own_sqlite_service: Any, tmp_path: Path) -> dict[str, Any]:
    """A backup that was taken while jobs ran."""
    target = tmp_path / "backup"
    with own_sqlite_service() as (_, worker):
        worker.register()
        done = worker.submit(spec(name="done"))["id"]
        worker.lease().succeed(b"bundle")
        held = worker.submit(spec(name="held"))["id"]
        lease = worker.lease()
        lease.state("running")
        checkpoint = lease.checkpoint(b"state", step=7)
        begun = lease.begin("begun.bin", b"x" * 10).json()
        lease.part(begun["id"], 1, b"x" * 10)
        queued = worker.submit(spec(name="queued"))["id"]
        told = tapeworks("backup", str(target), "--data-dir", str(own_sqlite_service.folder))
        assert "2 files" in told
        lease.finish("cancelled")
    return {"target": target, "done": done, "held": held, "queued": queued, "checkpoint": checkpoint, "lease": lease}


def test_a_backup_of_a_running_instance_goes_on_elsewhere(
    backed_up: dict[str, Any], own_sqlite_service: Any, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    assert "2 files" in tapeworks("restore", str(backed_up["target"]), "--data-dir", str(elsewhere))
    again = type(own_sqlite_service)(elsewhere, None)
    with again(lease_seconds=1, reaper_seconds=0.1, retry_seconds=0) as (client, worker):
        assert client.get(f"/v1/jobs/{backed_up['done']}/model").content == b"bundle"
        zombie = HandLease(client, backed_up["lease"].lease)
        assert (zombie.heartbeat().status_code, zombie.heartbeat().json()["code"]) == (409, "lease_lost")
        worker.register()
        states: dict[str, str] = {}
        while len(states) < 2:
            answer = worker.ask(wait=20)  # the held one comes once its void lease was reaped
            if answer.status_code == 204:
                continue
            lease = HandLease(client, answer.json())
            states[lease.job_id] = "leased"
            if lease.job_id == backed_up["held"]:
                assert [one["checkpoint_id"] for one in lease.lease["resume"]] == [backed_up["checkpoint"]]
                assert zombie.finish("succeeded").status_code == 409, "an attempt of the same job, another token"
            assert lease.finish("succeeded").is_success
        assert set(states) == {backed_up["held"], backed_up["queued"]}
        events = client.get(f"/v1/jobs/{backed_up['held']}/events").json()["data"]
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


def test_uploads_that_are_nothing_yet_are_in_a_backup(own_sqlite_service: Any, tmp_path: Path) -> None:
    data, half = b"a,b\n1,2\n", b"h" * (PART + 1)
    with own_sqlite_service() as (client, _):
        whole = send(client, data)
        begun = begin(client, half)
        path = f"/v1/uploads/{begun['id']}/parts/1"
        assert client.put(path, content=half[:PART], headers=digest_header(half[:PART])).is_success
        tapeworks("backup", str(tmp_path / "backup"), "--data-dir", str(own_sqlite_service.folder))
    tapeworks("restore", str(tmp_path / "backup"), "--data-dir", str(tmp_path / "elsewhere"))
    with type(own_sqlite_service)(tmp_path / "elsewhere", None)() as (client, _):
        assert begin(client, data)["completed"]
        made = client.post("/v1/datasets", json={"upload_id": whole, "name": "small", "format": "csv"})
        assert made.status_code == 201, made.text
        assert begin(client, half)["missing"] == [1, 2], "a part of which the bytes are not in the backup"
        send(client, half)


@pytest.mark.parametrize("asked", ["begin", "get", "create"])
def test_an_upload_whose_bytes_are_gone_is_sent_again(own_service: Any, asked: str) -> None:
    data = b"a,b\n1,2\n"
    with own_service() as (client, _):
        upload_id = send(client, data)
        wanted = {"upload_id": upload_id, "name": "small", "format": "csv"}
        for file in own_service.folder.glob("artifacts/*/files/*"):
            file.unlink()  # as where the files that were restored are older than the database
        if asked == "create":
            refused = client.post("/v1/datasets", json=wanted)
            assert (refused.status_code, "Send them again" in refused.text) == (422, True), refused.text
        told = client.get(f"/v1/uploads/{upload_id}").json() if asked == "get" else begin(client, data)
        assert (told["id"], told["completed"], told["missing"]) == (upload_id, False, [1])
        assert send(client, data) == upload_id
        assert client.post("/v1/datasets", json=wanted).status_code == 201


def test_nothing_is_overwritten_and_damage_is_told(
    backed_up: dict[str, Any], own_sqlite_service: Any, tmp_path: Path
) -> None:
    target, live = backed_up["target"], own_sqlite_service.folder
    assert "already" in tapeworks("backup", str(target), "--data-dir", str(live), expect=8)
    assert "no tapeworks.db" in tapeworks("backup", str(tmp_path / "b2"), "--data-dir", str(tmp_path), expect=8)
    assert "already" in tapeworks("restore", str(target), "--data-dir", str(live), expect=8)
    with own_sqlite_service():
        assert "runs in" in tapeworks("restore", str(target), "--data-dir", str(live), expect=8)
    damaged = next(path for path in (target / "artifacts").rglob("*") if path.is_file())
    damaged.write_bytes(b"X" + damaged.read_bytes()[1:])
    fresh = tmp_path / "fresh"
    assert "damaged" in tapeworks("restore", str(target), "--data-dir", str(fresh), expect=8)
    assert not (fresh / "tapeworks.db").exists()
    assert not (fresh / "artifacts").exists()
    with closing(sqlite3.connect(target / "tapeworks.db")) as database, database:
        database.execute("DELETE FROM jobs")
    assert "does not match the backup's digest" in tapeworks("restore", str(target), "--data-dir", str(fresh), expect=8)
    lost = next(path for path in (live / "artifacts").rglob("bundle.tar.gz"))
    lost.unlink()
    assert "missing" in tapeworks("backup", str(tmp_path / "b3"), "--data-dir", str(live), expect=8)
    assert not list(tmp_path.glob(".*writing"))
