"""Rows of the fault table about many: queued jobs, and clients that poll."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from qualification.faults.outcome import Outcome
from qualification.faults.worlds import World
from tapeworks_service.database.tables import jobs
from tests.support.hand_worker import HandWorker, spec

QUEUE_MS, POLL_MS = 100.0, 250.0
BUSY = 4
"""The tests run beside others: fewer are asked for, and may take so many times as long."""
ASKED = 200
"""How often the list, and a job to claim, are asked for."""
SUBMITTERS = 8
SUBMITTED = 100
COPIED_ID = "substr(j.id, 1, length(j.id) - 2) || CASE WHEN i < 10 THEN '0' ELSE '' END || CAST(i AS TEXT)"
EVERY_SECONDS = 10.0
"""How often each poller looks."""
LOOKS = 2
POLLED = 50


def queue(world: World, times: int) -> Outcome:
    """`times` queued jobs: the p95 of a list and of a claim."""
    outcome = Outcome(f"{times:,} queued jobs: list and claim".replace(",", " "), ASKED)
    worker = HandWorker(world.http, "many")
    worker.register()
    _submitted(world, SUBMITTED)
    outcome.jobs = _multiplied(world, times // SUBMITTED + 1)
    listing = _timed(lambda: world.http.get("/v1/jobs", params={"limit": 50}), ASKED)
    filtered = _timed(lambda: world.http.get("/v1/jobs", params={"state": "queued", "limit": 50}), ASKED // 4)
    leases = []
    claiming = _timed(lambda: leases.append(worker.lease()), ASKED)
    for lease in leases:
        assert lease.finish("released").status_code == 200
    for what, taken in (("list", listing), ("list of the queued", filtered), ("claim", claiming)):
        outcome.notes.append(f"{what} p95 {p95(taken):.0f} ms")
        if p95(taken) > QUEUE_MS * (1 if times >= 10_000 else BUSY):
            outcome.problems.append(f"{what}: p95 {p95(taken):.0f} ms")
    if len({lease.job_id for lease in leases}) != ASKED:
        outcome.problems.append("a job was leased twice")
    return outcome


def pollers(world: World, times: int) -> Outcome:
    """`times` clients, each on a connection of its own, look at their job every few seconds: p95, and no 5xx."""
    outcome = Outcome(f"{times:,} pollers".replace(",", " "), times)
    HandWorker(world.http, "many").register()
    polled = _submitted(world, POLLED)
    outcome.jobs = len(polled)
    answers = asyncio.run(_poll(world.port, polled, times))
    taken, bad = [seconds for _, seconds in answers], [status for status, _ in answers if status != 200]
    rate = times / EVERY_SECONDS
    outcome.notes.append(f"{rate:.0f} looks/s, p50 {1000 * statistics.median(taken):.0f} ms, p95 {p95(taken):.0f} ms")
    if bad:
        outcome.problems.append(f"{len(bad)} answers were not 200: {set(bad)}")
    if p95(taken) > POLL_MS * (1 if times >= 1_000 else BUSY):
        outcome.problems.append(f"p95 {p95(taken):.0f} ms")
    return outcome


def p95(seconds: Sequence[float]) -> float:
    """In milliseconds."""
    return 1000 * sorted(seconds)[int(0.95 * (len(seconds) - 1))]


def _timed(call: Callable[[], Any], count: int) -> list[float]:
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return taken


def _submitted(world: World, count: int) -> list[str]:
    """Submit so many jobs that nobody takes; their ids."""
    numbers = itertools.count(1)

    def submit(_: int) -> str:
        number = next(numbers)
        answer = world.http.post("/v1/jobs", json=spec(name=f"queued {number}", priority=number % 5))
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    with ThreadPoolExecutor(SUBMITTERS) as pool:
        return list(pool.map(submit, range(count)))


def _multiplied(world: World, times: int) -> int:
    """Every queued job so many times, past the service: submitting 10 000 takes minutes. Gives how many there are."""
    columns = [column.name for column in jobs.columns if column.name != "queue_seq"]
    kept = ", ".join(f'j."{name}"' if name != "id" else COPIED_ID for name in columns)
    names = ", ".join(f'"{name}"' for name in columns)
    counting = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {times - 1})"  # noqa: S608
    chosen = f"SELECT {kept} FROM jobs j CROSS JOIN n WHERE j.state = 'queued' ON CONFLICT DO NOTHING"  # noqa: S608
    world.execute(f"INSERT INTO jobs ({names}) {counting} {chosen}")
    (row,) = world.execute("SELECT count(*) AS count FROM jobs WHERE state = 'queued'")
    return int(row["count"])


async def _poll(port: int, polled: Sequence[str], count: int) -> list[tuple[int, float]]:
    """(status, seconds) of every look. Each poller begins at its own moment."""
    answers: list[tuple[int, float]] = []

    async def one(number: int) -> None:
        start = time.perf_counter() + EVERY_SECONDS * number / count
        for look in range(LOOKS):
            await asyncio.sleep(max(0.0, start + look * EVERY_SECONDS - time.perf_counter()))
            began = time.perf_counter()
            status = await _look(port, polled[number % len(polled)])
            answers.append((status, time.perf_counter() - began))

    await asyncio.gather(*(one(number) for number in range(count)))
    return answers


async def _look(port: int, job_id: str) -> int:
    """GET the job on a connection of its own; the status of the answer, which is read whole."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /v1/jobs/{job_id} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    assert json.loads(body)
    return int(head.split()[1])
