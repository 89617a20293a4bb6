"""Jobs that read a remote file and a database: fetched by the agent, in the lineage, the same in every attempt."""

import hashlib
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from tapeworks.schemas.jobs import State
from tests.support.serving import Served, eventually, serving
from tests.workers.inputs.test_remote_files import Web

LINES = [f"{n},{n % 7},{n % 2}" for n in range(400)]
QUERY = "select a, b, y from rows order by a"


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    one = Web()
    one.files["/data/rows.csv"] = "\n".join(["a,b,y", *LINES]).encode()
    yield one
    one.server.shutdown()
    one.server.server_close()


@pytest.fixture(scope="module")
def server(web: Web, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose operator allows one web folder and one database."""
    folder = tmp_path_factory.mktemp("external")
    with sqlite3.connect(folder / "rows.db") as database:
        database.execute("create table rows(a integer, b real, y integer)")
        database.executemany("insert into rows values (?, ?, ?)", (line.split(",") for line in LINES))
    (folder / "connections.toml").write_text(f'[connections]\nsmall = "sqlite:///{folder}/rows.db"\n')
    environment = {"TAPEWORKS_WORKER_REMOTE_FILES": f"{web.url}/data/",
                   "TAPEWORKS_WORKER_CONNECTIONS_FILE": str(folder / "connections.toml")}  # fmt: skip
    with serving(folder / "served", "--cpu-slots", "1", environment=environment) as served:
        yield served


def spec(source: dict[str, Any], **training: Any) -> dict[str, Any]:
    return {
        "data": {"source": source, "validation": 0.25, "pipeline": [{"op": "batch", "batch_size": 20}]},
        "model": {"component": "mlp", "config": {"hidden": [4], "outputs": 2}},
        "optimizer": "keras/Adam",
        "loss": {"component": "keras/SparseCategoricalCrossentropy", "config": {"from_logits": True}},
        "training": {"epochs": 1, **training},
    }


def of_web(web: Web, name: str = "rows.csv") -> dict[str, Any]:
    return {"component": "csv", "config": {"files": f"{web.url}/data/{name}", "labels": "y"}}


@pytest.mark.slow
def test_a_query_and_a_remote_file_train_the_same_model(server: Served, web: Web) -> None:
    database = {"component": "sql", "config": {"connection": "small", "query": QUERY, "labels": "y"}}
    of_file, of_rows = server.run(spec(of_web(web))), server.run(spec(database))
    assert (of_file.state, of_rows.state) == (State.SUCCEEDED, State.SUCCEEDED), (of_file.failure, of_rows.failure)
    assert of_file.metrics["val_loss"] == of_rows.metrics["val_loss"]
    content = web.files["/data/rows.csv"]
    (fetched,) = of_file.lineage["fetched"]
    assert fetched["from"] == f"{web.url}/data/rows.csv"
    assert fetched["files"][0]["sha256"] == hashlib.sha256(content).hexdigest()
    assert of_file.lineage["sources"]["training"]["files"][0]["sha256"] == hashlib.sha256(content).hexdigest()
    (rows,) = of_rows.lineage["fetched"]
    assert (rows["connection"], rows["query"], rows["rows"]) == ("small", QUERY, len(LINES))
    assert of_rows.lineage["sources"]["training"]["files"][0]["sha256"] == rows["sha256"]


def test_a_file_that_changes_between_attempts_ends_the_job(server: Served, web: Web) -> None:
    web.files["/data/changing.csv"] = web.files["/data/rows.csv"]
    job = server.client.submit(spec(of_web(web, "changing.csv"), epochs=100_000))
    eventually(lambda: server.client.get(job.id).progress.step > 0, 120, "it trains")
    server.client.pause(job.id)
    eventually(lambda: server.client.get(job.id).state is State.PAUSED, 120, "it is paused")
    web.files["/data/changing.csv"] += b"\n1,2,0"
    server.client.resume(job.id)
    ended = server.client.wait(job.id, 120)
    assert ended.failure is not None
    assert ended.failure.code == "invalid_data"
    assert "changed since the job's first attempt" in ended.failure.message


def test_what_the_operator_did_not_name_is_refused(server: Served, web: Web) -> None:
    elsewhere = server.run(spec({"component": "csv", "config": {"files": f"{web.url}/other.csv", "labels": "y"}}))
    assert elsewhere.failure is not None
    assert "is not below an address that this worker may read" in elsewhere.failure.message
    assert "--remote-files" in elsewhere.failure.hint
    database = {"component": "sql", "config": {"connection": "large", "query": QUERY}}
    refused = server.run(spec(database))
    assert refused.failure is not None
    assert "the connection 'large' is not configured" in refused.failure.message
