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

from tests.faults.outcome import Outcome
from tests.faults.worlds import World
from tests.service.worker import HandWorker, spec

QUEUE_MS, POLL_MS = 100.0, 250.0
ASKED = 200
"""How often the list, and a job to claim, are asked for."""
CLAIMERS = 8
EVERY_SECONDS = 5.0
"""How often each poller looks."""
POLLING_SECONDS = 20.0
POLLED = 50


def queue(world: World, times: int) -> Outcome:
    """`times` queued jobs: the p95 of a list and of a claim."""
    outcome = Outcome(f"{times:,} queued jobs: list and claim".replace(",", " "), ASKED)
    worker = HandWorker(world.http, "many")
    worker.register()
    outcome.jobs = len(_queued(world, times))
    listing = _timed(lambda: world.http.get("/v1/jobs", params={"limit": 50}), ASKED)
    filtered = _timed(lambda: world.http.get("/v1/jobs", params={"state": "queued", "limit": 50}), ASKED // 4)
    leases = []
    claiming = _timed(lambda: leases.append(worker.lease()), ASKED)
    for lease in leases:
        assert lease.finish("released").status_code == 200
    for what, taken in (("list", listing), ("list of the queued", filtered), ("claim", claiming)):
        outcome.notes.append(f"{what} p95 {p95(taken):.0f} ms")
        if p95(taken) > QUEUE_MS:
            outcome.problems.append(f"{what}: p95 {p95(taken):.0f} ms")
    if len({lease.job_id for lease in leases}) != ASKED:
        outcome.problems.append("a job was leased twice")
    return outcome


def pollers(world: World, times: int) -> Outcome:
    """`times` clients, each on a connection of its own, look at their job every few seconds: p95, and no 5xx."""
    outcome = Outcome(f"{times:,} pollers".replace(",", " "), times)
    HandWorker(world.http, "many").register()
    jobs = _queued(world, POLLED)
    outcome.jobs = len(jobs)
    answers = asyncio.run(_poll(world.port, jobs, times))
    taken, bad = [seconds for _, seconds in answers], [status for status, _ in answers if status != 200]
    rate = len(answers) / POLLING_SECONDS
    outcome.notes.append(f"{rate:.0f} answers/s, p50 {1000 * statistics.median(taken):.0f} ms, p95 {p95(taken):.0f} ms")
    if bad:
        outcome.problems.append(f"{len(bad)} answers were not 200: {set(bad)}")
    if p95(taken) > POLL_MS:
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


def _queued(world: World, count: int) -> list[str]:
    """Submit so many jobs that nobody takes; their ids."""
    numbers = itertools.count(1)

    def submit(_: int) -> str:
        answer = world.http.post("/v1/jobs", json=spec(name=f"queued {next(numbers)}", priority=next(numbers) % 5))
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    with ThreadPoolExecutor(CLAIMERS) as pool:
        return list(pool.map(submit, range(count)))


async def _poll(port: int, jobs: Sequence[str], count: int) -> list[tuple[int, float]]:
    """(status, seconds) of every look. Each poller begins at its own moment."""
    answers: list[tuple[int, float]] = []
    opening = asyncio.Semaphore(100)

    async def one(number: int) -> None:
        async with opening:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request = f"GET /v1/jobs/{jobs[number % len(jobs)]} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        await start.wait()
        await asyncio.sleep(EVERY_SECONDS * number / count)
        until = time.perf_counter() + POLLING_SECONDS
        while (began := time.perf_counter()) < until:
            writer.write(request)
            status = await _answer(reader)
            answers.append((status, time.perf_counter() - began))
            await asyncio.sleep(EVERY_SECONDS - (time.perf_counter() - began) % EVERY_SECONDS)
        writer.close()
        await writer.wait_closed()

    start = asyncio.Event()
    polling = [asyncio.create_task(one(number)) for number in range(count)]
    await asyncio.sleep(1)  # the connections are made before the first look
    start.set()
    await asyncio.gather(*polling)
    return answers


async def _answer(reader: asyncio.StreamReader) -> int:
    """Read one HTTP answer whole; its status."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
    json.loads(await reader.readexactly(int(fields["content-length"])))
    return int(head[0].split()[1])
