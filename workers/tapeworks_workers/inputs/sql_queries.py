"""Queries of jobs: a process of their own runs each before the runner starts, and its rows lie in the worker's cache.

The operator names connections in a TOML file that only the agent reads:

    [connections]
    sales = "postgresql://reader:secret@db.example.org/sales"
    local = "sqlite:////srv/data/local.db"
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.inputs.sql_query import Query
from tapeworks_workers.inputs.upload_cache import Cache, CachedUpload

COMPONENT = "sql"
FILE = "rows.arrow"


class BadConnections(ValueError):
    """The file of connections cannot be read; the message says why."""


def connections_of(path: Path | None) -> dict[str, str]:
    """Name → URL. Raises BadConnections."""
    if path is None:
        return {}
    try:
        found = tomllib.loads(path.read_text()).get("connections", {})
    except (OSError, ValueError) as error:
        raise BadConnections(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(url, str) for url in found.values()):
        raise BadConnections(f"{path}: [connections] holds a URL for each name")
    return found


def queries(data: Any) -> Iterator[tuple[str, str]]:
    """Connection and query of each source `sql` in a spec's `data`, each once."""
    yield from dict.fromkeys(_queries(data))


def _queries(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, list):
        for one in value:
            yield from _queries(one)
    elif isinstance(value, dict):
        config = value.get("config")
        if value.get("component") == COMPONENT and isinstance(config, dict):
            yield str(config.get("connection")), str(config.get("query"))
        for one in value.values():
            yield from _queries(one)


@dataclass(frozen=True)
class Rows:
    """The rows of one query in the cache."""

    connection: str
    query: str
    rows: int
    bytes: int
    sha256: str
    kept: CachedUpload

    @property
    def path(self) -> Path:
        """The Arrow file."""
        return self.kept.folder / FILE

    def pinned(self) -> dict[str, Any]:
        """The facts that the lineage holds and that a later attempt compares."""
        kept = ("connection", "query", "rows", "bytes", "sha256")
        return {name: getattr(self, name) for name in kept}


@dataclass(frozen=True)
class SqlQueries:
    """Runs queries within bounds."""

    cache: Cache
    connections: Path | None
    most_rows: int
    most_bytes: int
    seconds: float

    async def fetch(self, project: str, job: str, connection: str, query: str, pin: dict[str, Any] | None) -> Rows:
        """The rows, held in the cache. Raises JobFailure; also where they are not those of an earlier attempt."""
        try:
            known = connections_of(self.connections)
        except BadConnections as error:
            raise _refused(str(error), "The worker's operator corrects the file.") from error
        if connection not in known:
            message = f"the connection {connection!r} is not configured on this worker"
            raise _refused(message, "The operator names connections in the file of TAPEWORKS_WORKER_CONNECTIONS_FILE.")
        name = hashlib.sha256(f"{job}\n{connection}\n{query}".encode()).hexdigest()

        async def make(folder: Path) -> None:
            (folder / "files").mkdir()
            asked = Query(known[connection], query, str(folder / "files" / FILE), self.most_rows, self.most_bytes,
                          self.seconds)  # fmt: skip
            answer = await answered(asked)
            if "error" in answer:
                raise _refused(
                    f"the query on {connection!r}: {answer['error']}", "Correct the query of the source sql."
                )
            if not answer["rows"]:
                raise _refused(f"the query on {connection!r} gives no rows", "Correct the query of the source sql.")
            (folder / "digest.json").write_text(json.dumps(answer))

        kept = await self.cache.hold_made(project, f"{name}.query", 0, make)
        noted = json.loads((kept.folder.parent / "digest.json").read_text())
        if pin is not None and noted["sha256"] != pin.get("sha256"):
            self.cache.let_go(kept)
            raise _refused(
                f"the query on {connection!r} gives other rows than in the job's first attempt "
                f"({noted['rows']} rows, then {pin.get('rows')})",
                "Add an ORDER BY over a unique key and a condition that excludes later rows, or submit the job again.",
            )
        return Rows(connection, query, noted["rows"], noted["bytes"], noted["sha256"], kept)


async def answered(asked: Query) -> dict[str, Any]:
    """The answer of a process that runs a query: `rows`, `bytes` and `sha256`, or `error`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tapeworks_workers.inputs.sql_query",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        env={name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ", "PYTHONPATH") if name in os.environ},
    )  # fmt: skip
    try:
        async with asyncio.timeout(asked.seconds):
            output, _ = await process.communicate(json.dumps(asdict(asked)).encode())
    except TimeoutError:
        return {"error": f"it took longer than {asked.seconds:g} s"}
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        return {"error": f"its process ended with {process.returncode}"}
    answer: dict[str, Any] = json.loads(output)
    return answer


def _refused(message: str, hint: str) -> JobFailure:
    return JobFailure(FailureCode.INVALID_DATA, message, hint=hint)
