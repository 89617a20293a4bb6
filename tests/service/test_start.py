"""Starting: migrations, one service per file, no TensorFlow, little memory; and what is served about itself."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from sqlalchemy import create_engine

from tapeworks_service.database.migrations import upgrade
from tapeworks_service.database.tables import metadata
from tests.support.hand_worker import HandWorker


def test_what_hangs_on_a_job_is_keyed_by_its_project() -> None:
    for table in metadata.tables.values():
        if "project_id" in table.c and table.name not in ("api_keys", "jobs", "assets"):
            assert next(column.name for column in table.primary_key) == "project_id", table.name


def test_the_claim_reads_one_index_entry_for_each_need(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'plan.db'}")
    with engine.begin() as connection:
        upgrade(connection)
    engine.dispose()
    database = sqlite3.connect(tmp_path / "plan.db")
    plan = database.execute(
        "EXPLAIN QUERY PLAN SELECT queue_seq FROM jobs WHERE state = 'queued' AND waiting = 0 AND fit_key = 'x' "
        "ORDER BY priority DESC, fair_rank, queue_seq LIMIT 1"
    ).fetchall()
    database.close()
    told = " ".join(row[3] for row in plan)
    assert "ix_jobs_claim" in told
    assert "TEMP B-TREE" not in told


def test_a_second_service_on_the_same_file_does_not_start(own_sqlite_service: Any) -> None:
    with own_sqlite_service() as (client, _):
        with pytest.raises(AssertionError, match="did not start"), own_sqlite_service():
            pass
        assert client.get("/healthz").status_code == 200


@pytest.mark.slow
def test_the_service_starts_where_tensorflow_cannot_be_imported(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import asyncio, sys, httpx

        class Barred:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in ("tensorflow", "keras", "tapeworks_workers", "numpy"):
                    raise ImportError(f"{name} is barred")

        sys.meta_path.insert(0, Barred())
        from tapeworks_service.app import create_app
        from tapeworks_service.settings import ServiceSettings

        async def main():
            app = create_app(ServiceSettings(data_dir=sys.argv[1]))
            async with app.router.lifespan_context(app):
                async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
                    assert (await client.get("/healthz")).status_code == 200
                    assert (await client.get("/v1/jobs")).status_code == 200
                    assert (await client.get("/openapi.json")).status_code == 200
            found = [name for name in sys.modules if name.partition(".")[0] in ("tensorflow", "keras", "numpy")]
            assert not found, found

        asyncio.run(main())
    """)
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr


def start(folder: Path, **settings: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "TAPEWORKS_DATA_DIR": str(folder), "TAPEWORKS_PORT": "0", **settings}
    return subprocess.Popen(
        [sys.executable, "-m", "tapeworks_service"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def wait_for(process: subprocess.Popen[bytes], text: bytes) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"the service ended with {process.wait()} and never said {text!r}")


def test_the_process_starts_small_and_stops_on_sigterm(tmp_path: Path) -> None:
    process = start(tmp_path)
    try:
        wait_for(process, b"service_started")
        status = Path(f"/proc/{process.pid}/status").read_text()
        resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        assert resident < 150 * 1024, f"{resident} KiB at the start"
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=20)
        assert process.returncode == 0, output
    finally:
        process.kill()
        process.communicate()


def test_the_process_says_why_it_does_not_start(tmp_path: Path) -> None:
    process = start(tmp_path, TAPEWORKS_HOST="192.0.2.1")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"tapeworks_service: without a key the service listens on loopback only" in output


# ── about itself ─────────────────────────────────────────────────────────────────────────────────


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(item) for item in value.values()))
    return set().union(*(references(item) for item in value)) if isinstance(value, list) else set()


def test_the_openapi_document_is_whole(api: httpx.Client) -> None:
    document = api.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    for reference in references(document):
        target = document
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(ids) == len(set(ids))
    assert {"create_job", "get_job", "list_jobs", "cancel_job", "get_model", "lease_job", "finish_attempt"} <= set(ids)
    submit = document["paths"]["/v1/jobs"]["post"]
    body = submit["requestBody"]["content"]["application/json"]
    assert body["schema"] == {"$ref": "#/components/schemas/JobSpecInput"}
    assert "model" in document["components"]["schemas"]["JobSpecInput"]["properties"]
    assert "application/problem+json" in submit["responses"]["422"]["content"]
    assert api.post("/v1/jobs/validate", json=body["example"]).status_code in (200, 422)


def test_every_operation_has_an_example_that_fits_its_schema(api: httpx.Client) -> None:
    document = api.get("/openapi.json").json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    for operation in operations:
        answers = [answer for status, answer in operation["responses"].items() if status.startswith("2")]
        media = [part for answer in answers for part in answer.get("content", {}).items()]
        asked = list(operation.get("requestBody", {}).get("content", {}).items())
        for kind, content in media + asked:
            if kind != "application/json":
                continue
            assert "example" in content, operation["operationId"]
            schema = {**content["schema"], "components": document["components"]}
            jsonschema.Draft202012Validator(schema).validate(content["example"])
    by_id = {operation["operationId"]: operation for operation in operations}
    assert "text/event-stream" in by_id["list_events"]["responses"]["200"]["content"]
    assert list(by_id["get_model"]["responses"]["206"]["content"]) == ["application/octet-stream"]
    assert list(by_id["prometheus"]["responses"]["200"]["content"]) == ["text/plain"]


def test_prometheus_counts_by_route(api: httpx.Client, worker: HandWorker) -> None:
    job = worker.submit()
    api.get(f"/v1/jobs/{job['id']}")
    text = api.get("/metrics").text
    assert 'route="/v1/jobs/{job_id}"' in text
    assert job["id"] not in text
    assert 'tapeworks_jobs{state="queued"}' in text
    assert 'tapeworks_workers{state="ready"} 1.0' in text
