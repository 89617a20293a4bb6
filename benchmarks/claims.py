"""What a long queue costs, on both databases: .venv/bin/python -m benchmarks.claims

Most of the queued jobs ask for worker labels that nobody has. A worker asks for a job by HTTP while one job that fits
it waits behind them all, and again while none does; a user lists jobs. A table: milliseconds by the number of queued
jobs and of different needs among them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import create_async_engine

from tapeworks_service.database.tables import events, fits, jobs
from tapeworks_service.ids import new_id
from tapeworks_service.queue.requirements import Requirements
from tests.support.hand_worker import HandWorker, spec
from tests.support.postgres import postgres

CASES = ((100, 50), (10_000, 50), (100_000, 50), (10_000, 10_000), (100_000, 10_000))
"""Queued jobs, and how many different needs they have."""
INSERT_ROWS = 1_000


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def service(folder: Path, database: str) -> Iterator[httpx.Client]:
    """A service process on a database, once it answers."""
    port = free_port()
    settings = {"DATA_DIR": str(folder), "PORT": str(port), "DATABASE_URL": database}
    environment = os.environ | {f"TAPEWORKS_{name}": value for name, value in settings.items()}
    with answering(["-m", "tapeworks_service"], port, "/healthz", folder / "service.log", environment) as client:
        yield client


@contextmanager
def installation(database: str) -> Iterator[tuple[httpx.Client, Path, str]]:
    """A service on a new SQLite file or PostgreSQL database: a client, the folder, the database's URL."""
    with tempfile.TemporaryDirectory() as name, postgres() if database == "postgresql" else nullcontext() as server:
        folder = Path(name)
        url = f"sqlite+aiosqlite:///{folder / 'tapeworks.db'}" if server is None else server.create()
        with service(folder, url) as client:
            yield client, folder, url


@contextmanager
def answering(
    arguments: Sequence[str], port: int, path: str, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[httpx.Client]:
    """A client of a Python process that serves on a port, once it answers at a path; the process is stopped then."""
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, *arguments], env=environment, stdout=out, stderr=out)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            _await(client, path, process, log)
            yield client
    finally:
        process.terminate()
        process.wait(30)


def _await(client: httpx.Client, path: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            assert client.get(path).is_success
            return
        except httpx.TransportError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, f"nothing answers at {path}"
            time.sleep(0.05)


async def fill(url: str, queued: int, kinds: int) -> None:
    """Copies of the one job that is there, as submissions would have written them, with labels that no worker has."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        row = dict((await connection.execute(select(jobs))).mappings().one())
        event = dict((await connection.execute(select(events))).mappings().one())
        known = (await connection.execute(select(fits.c.needs).where(fits.c.fit_key == row["fit_key"]))).scalar_one()
        needs = [replace(Requirements.from_document(known), labels=(("rack", str(kind)),)) for kind in range(kinds)]
        for start in range(0, kinds, INSERT_ROWS):
            part = needs[start : start + INSERT_ROWS]
            await connection.execute(insert(fits), [{"fit_key": one.fit_key, "needs": one.document()} for one in part])
        keys = [one.fit_key for one in needs]
        del row["queue_seq"]
        for start in range(0, queued, INSERT_ROWS):
            rows = [_copy(row, number, kinds, keys) for number in range(start, min(start + INSERT_ROWS, queued))]
            await connection.execute(insert(jobs), rows)
            await connection.execute(insert(events), [{**event, "job_id": one["id"]} for one in rows])
    if engine.dialect.name == "postgresql":
        async with engine.begin() as connection:
            await connection.execute(text("ANALYZE"))  # autovacuum does it within a minute
    await engine.dispose()


def _copy(row: dict[str, Any], number: int, kinds: int, keys: list[str]) -> dict[str, Any]:
    kind = number % kinds
    resources = {**row["spec"]["resources"], "worker_labels": {"rack": str(kind)}}
    document = {**row["spec"], "resources": resources}
    return {**row, "id": new_id("job"), "fit_key": keys[kind], "spec": document, "fair_rank": number + 1}


def measured(call: Callable[[], float], times: int) -> str:
    """Median, 95th and 99th percentile of a call's milliseconds."""
    taken = sorted(call() for _ in range(times))
    return " ".join(f"{value:6.1f}" for value in (statistics.median(taken), *(_part(taken, p) for p in (0.95, 0.99))))


def _part(taken: Sequence[float], part: float) -> float:
    return taken[round(part * (len(taken) - 1))]


def timed(call: Callable[[], httpx.Response], status: int) -> float:
    began = time.perf_counter()
    answer = call()
    taken = (time.perf_counter() - began) * 1000
    assert answer.status_code == status, answer.text
    return taken


def figures(client: httpx.Client, worker: HandWorker, times: int) -> list[str]:
    """Of a claim and the finish of its job (so many a second, too), a claim alone, a look that finds nothing, the
    newest 50 jobs, and the newest 50 that are queued."""
    claims: list[float] = []

    def claim_and_finish() -> float:
        worker.submit(spec(export=None))
        began = time.perf_counter()
        lease = worker.lease()
        claims.append((time.perf_counter() - began) * 1000)
        assert lease.finish("succeeded").status_code == 200
        return (time.perf_counter() - began) * 1000

    both = measured(claim_and_finish, times)
    rest = iter(list(claims))
    return [
        f"{1000 / float(both.split()[0]):6.0f}",
        both,
        measured(lambda: next(rest), times),
        measured(lambda: timed(worker.ask, 204), times),
        measured(lambda: timed(lambda: client.get("/v1/jobs"), 200), times),
        measured(lambda: timed(lambda: client.get("/v1/jobs?state=queued"), 200), times),
    ]


def case(url: str, queued: int, kinds: int, times: int) -> list[str]:
    """The figures of one length of the queue."""
    with tempfile.TemporaryDirectory() as folder, service(Path(folder), url) as client:
        worker = HandWorker(client)
        worker.register()
        first = worker.submit(spec(export=None))
        asyncio.run(fill(url, queued, kinds))
        lease = worker.lease()
        assert lease.job_id == first["id"]
        lease.finish("succeeded")
        worker.register()
        return figures(client, worker, times)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=100, help="measurements of each figure")
    parser.add_argument("--longest", type=int, default=100_000, help="leave out queues that are longer")
    given = parser.parse_args()
    print("claims and finishes a second by one worker; milliseconds: median, 95th and 99th percentile")
    columns = ("claim and finish", "claim", "nothing", "list", "list queued")
    print("database    queued  needs | a second | " + " | ".join(f"{name:>20}" for name in columns))
    with tempfile.TemporaryDirectory() as folder, postgres() as server:
        for queued, kinds in (one for one in CASES if one[0] <= given.longest):
            for name in ("sqlite", "postgresql"):
                file = Path(folder) / f"{queued}-{kinds}.db"
                url = f"sqlite+aiosqlite:///{file}" if name == "sqlite" else server.create()
                told = case(url, queued, min(kinds, queued), given.times)
                print(f"{name:10} {queued:7} {kinds:6} | " + " | ".join(told), flush=True)


if __name__ == "__main__":
    main()
