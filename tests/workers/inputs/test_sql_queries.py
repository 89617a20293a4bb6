"""Queries on real databases: SQLite files and a PostgreSQL server. Read-only, one statement, bounded, pinned."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from tapeworks.cli.main import app
from tapeworks.errors import JobFailure
from tapeworks_workers.inputs.sql_queries import SqlQueries, connections_of, queries
from tapeworks_workers.inputs.sql_query import without_secrets
from tapeworks_workers.inputs.sql_statements import NotOneQuery, one_query
from tapeworks_workers.inputs.upload_cache import Cache
from tests.support.postgres import postgres

ROWS = 70_000


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Name → URL of one table `t(id, x, name)` in both."""
    folder = tmp_path_factory.mktemp("sql")
    with sqlite3.connect(folder / "a b.db") as lite:
        lite.execute("create table t(id integer, x real, name text)")
        lite.executemany("insert into t values (?, ?, ?)", ((n, n / 7, f"n{n}") for n in range(ROWS)))
    with postgres() as server:
        url = server.create()
        plain = url.replace("postgresql+asyncpg", "postgresql")
        asyncio.run(_filled(plain))
        yield {"lite": f"sqlite:///{folder}/a%20b.db", "pg": plain}


async def _filled(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("create table t(id bigint, x double precision, name text)")
        rows = [(n, n / 7, f"n{n}") for n in range(ROWS)]
        await connection.copy_records_to_table("t", records=rows)
    finally:
        await connection.close()


@pytest.fixture
def sql(databases: dict[str, str], tmp_path: Path) -> SqlQueries:
    return queries_on(tmp_path, databases)


def queries_on(folder: Path, urls: dict[str, str], **bounds: Any) -> SqlQueries:
    (folder / "connections.toml").write_text("[connections]\n" + "".join(f'{n} = "{u}"\n' for n, u in urls.items()))
    given = {"most_rows": 10**6, "most_bytes": 10**9, "seconds": 30.0, **bounds}
    return SqlQueries(Cache(folder / "cache", reserve=0), folder / "connections.toml", **given)


def fetch(sql: SqlQueries, connection: str, query: str, pin: Any = None, job: str = "job_1") -> Any:
    return asyncio.run(sql.fetch("p1", job, connection, query, pin))


both = pytest.mark.parametrize("name", ["lite", "pg"])


@both
def test_rows_come_as_arrow_with_a_digest(sql: SqlQueries, name: str) -> None:
    query = "-- all; of them\nselect id, x, name from t where name <> ';' order by id;\n"
    found = fetch(sql, name, query)
    table = pa.ipc.open_file(found.path).read_all()
    assert table["id"].to_pylist() == list(range(ROWS))
    assert table["x"].to_pylist() == [n / 7 for n in range(ROWS)]
    assert table["name"].to_pylist()[-1] == f"n{ROWS - 1}"
    assert (found.rows, found.pinned()["query"]) == (ROWS, query)
    other = fetch(sql, name, query, job="job_2")
    assert (other.path != found.path, other.sha256) == (True, found.sha256), "the same rows are the same bytes"
    assert fetch(sql, name, query, found.pinned()).path == found.path


@both
def test_other_rows_than_in_the_first_attempt_are_refused(databases: dict[str, str], tmp_path: Path, name: str) -> None:
    first = fetch(queries_on(tmp_path, databases), name, "select id from t order by id limit 5")
    pin = {**first.pinned(), "sha256": "0" * 64}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(JobFailure, match="gives other rows than in the job's first attempt") as refused:
        fetch(queries_on(elsewhere, databases), name, first.query, pin)
    assert "ORDER BY" in refused.value.hint


@both
@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("with gone as (select 1) delete from t", "readonly|read-only|syntax"),
        ("select nope from t", "nope"),
        ("select id from t where id < 0", "gives no rows"),
    ],
)
def test_what_does_not_just_read_is_refused(sql: SqlQueries, name: str, query: str, why: str) -> None:
    with pytest.raises(JobFailure, match=rf"the query on '{name}'.*({why})"):
        fetch(sql, name, query)
    assert fetch(sql, name, "select count(*) as n from t").rows == 1


def test_postgresql_refuses_writes_inside_of_a_query(sql: SqlQueries) -> None:
    with pytest.raises(JobFailure, match="read-only transaction"):
        fetch(sql, "pg", "with gone as (delete from t returning id) select id from gone")
    with pytest.raises(JobFailure, match="read-only transaction"):
        fetch(sql, "pg", "select lo_create(0)")


def test_decimals_are_floats(sql: SqlQueries) -> None:
    found = fetch(sql, "pg", "select id::numeric / 4 as q from t order by id limit 3")
    assert pa.ipc.open_file(found.path).read_all().to_pydict() == {"q": [0.0, 0.25, 0.5]}


@both
def test_rows_bytes_and_time_are_bounded(databases: dict[str, str], tmp_path: Path, name: str) -> None:
    endless = "with recursive r(n) as (select 1 union all select n + 1 from r) select count(*) as c from r"
    for bounds, query, why in (({"most_rows": 10}, "select id from t", "more than 10 rows"),
                               ({"most_bytes": 1000}, "select id from t", "more than 1000 bytes"),
                               ({"seconds": 1.5}, endless, "took longer than 1.5 s|statement timeout")):  # fmt: skip
        with pytest.raises(JobFailure, match=why):
            fetch(queries_on(tmp_path, databases, **bounds), name, query)


def test_connections_are_named_by_the_operator(sql: SqlQueries, tmp_path: Path) -> None:
    with pytest.raises(JobFailure, match="the connection 'other' is not configured on this worker"):
        fetch(sql, "other", "select 1")
    assert connections_of(None) == {}
    gone = queries_on(tmp_path, {"gone": f"sqlite:///{tmp_path}/gone.db"})
    with pytest.raises(JobFailure, match="the database file does not exist"):
        fetch(gone, "gone", "select 1")
    (tmp_path / "connections.toml").write_text("[connections\n")
    with pytest.raises(JobFailure, match="cannot be read"):
        fetch(gone, "gone", "select 1")


@pytest.mark.usefixtures("logging_kept")
def test_doctor_asks_every_database(databases: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queries_on(tmp_path, {**databases, "gone": f"sqlite:///{tmp_path}/gone.db"})
    monkeypatch.setenv("TAPEWORKS_WORKER_CONNECTIONS_FILE", str(tmp_path / "connections.toml"))
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert json.loads(done.stdout)["connections"] == {
        "lite": "on", "pg": "on", "gone": "the database file does not exist",
    }  # fmt: skip
    assert done.exit_code == 1


def test_messages_hold_no_password() -> None:
    url = "postgresql://reader:p%40ss@db/x"
    assert without_secrets(f"cannot reach {url}: p@ss, p%40ss", url) == "cannot reach …: …, …"


@pytest.mark.parametrize(
    "text", ["select 1;", " ( select 1 ) ", "select ';' -- ;\n", 'select ";" /* ; */ ;', "select $a$;$a$", "VALUES (1)"]
)
def test_one_statement_is_taken(text: str) -> None:
    assert one_query(text) == text.removesuffix(";")


@pytest.mark.parametrize("text", ["", " -- only\n", "select 1;;", "select ''';'; select 2", "select $a$;$b$;$a$; x",
                                  "attach 'x' as y", "copy t to '/x'", "explain select 1", "select 1\0"])  # fmt: skip
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(NotOneQuery):
        one_query(text)


def test_queries_are_found_in_every_source() -> None:
    one = {"component": "sql", "config": {"connection": "a", "query": "q"}}
    data = {"source": {"component": "zip", "config": {"sources": {"x": {"source": one}}}}, "validation": one}
    assert list(queries(data)) == [("a", "q")]
