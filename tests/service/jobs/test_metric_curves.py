"""Buckets of metrics against all the points, however they were reported: in parts, after a rewind, by attempts."""

from __future__ import annotations

import asyncio
import json
import math
import random
from typing import Any

import httpx
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.support.hand_worker import HandLease, HandWorker, spec

NAMES = ("loss", "val_loss", "rare")
Points = dict[str, list[tuple[int, float]]]


def value(chance: random.Random) -> Any:
    return chance.choice(["NaN", "Infinity", "-Infinity"]) if chance.random() < 0.01 else chance.gauss(0, 100)


def report(lease: HandLease, chance: random.Random, steps: range, *, size: int = 400) -> None:
    """Report all steps, in requests of random sizes."""
    records = []
    for step in steps:
        values = {"loss": value(chance)}
        if step % 7 == 0:
            values["val_loss"] = value(chance)
        if step % 1000 == 500:
            values["rare"] = value(chance)
        records.append({"record": "metric", "step": step, "values": values})
    while records:
        some = chance.randint(1, size)
        assert lease.records(*records[:some]).status_code == 200
        del records[:some]


def all_points(client: httpx.Client, job: str) -> Points:
    series = client.get(f"/v1/jobs/{job}/metrics").json()["data"]
    return {one["name"]: [(step, float(shown)) for step, shown, _ in one["points"]] for one in series}


def check(client: httpx.Client, job: str, points: Points, **asked: Any) -> Any:
    """Every bucket is what its points are, and none of the points in the range is left out."""
    answer = client.get(f"/v1/jobs/{job}/metrics", params=asked)
    assert answer.status_code == 200, answer.text
    shown = answer.json()
    low, high = asked.get("from_step", -(2**70)), asked.get("to_step", 2**70)
    for series in shown["data"]:
        own, width = points[series["name"]], series["width"]
        assert (series["low_step"], series["high_step"]) == (own[0][0], own[-1][0])
        assert len(series["buckets"]) <= asked["buckets"]
        ranges = [bucket[0] // width for bucket in series["buckets"]]
        assert ranges == sorted(set(ranges))
        seen = {step // width for step, _ in own if low <= step <= high}
        assert set(ranges) >= seen
        by_range: dict[int, list[tuple[int, float]]] = {}
        for step, one in own:
            by_range.setdefault(step // width, []).append((step, one))
        for number, bucket in zip(ranges, series["buckets"], strict=True):
            assert bucket[:8] == expected(by_range[number]), (series["name"], width, bucket)
    return answer


def expected(held: list[tuple[int, float]]) -> list[Any]:
    def short(one: float) -> Any:
        return float(f"{one:.7g}")

    finite = [one for _, one in held if math.isfinite(one)]
    nans, last = sum(math.isnan(one) for _, one in held), held[-1][1]
    special = "NaN" if math.isnan(last) else "Infinity" if last > 0 else "-Infinity"
    return [
        held[0][0], held[-1][0], len(held), short(min(finite)) if finite else None,
        short(max(finite)) if finite else None, short(last) if math.isfinite(last) else special,
        nans, len(held) - len(finite) - nans,
    ]  # fmt: skip


def check_everywhere(client: httpx.Client, job: str, chance: random.Random) -> None:
    points = all_points(client, job)
    end = points["loss"][-1][0]
    for buckets in (2, 3, 187, 1000):
        check(client, job, points, buckets=buckets)
    for _ in range(6):
        first = chance.randint(0, end)
        asked = {"from_step": first, "to_step": first + chance.choice([0, 10, 300, 3000, end])}
        check(client, job, points, buckets=chance.choice([2, 7, 100]), **asked)
    (only,) = check(client, job, points, buckets=20, name="val_loss").json()["data"]
    assert only["name"] == "val_loss"


def test_buckets_are_those_of_all_points_after_rewinds_and_attempts(api: httpx.Client, worker: HandWorker) -> None:
    chance = random.Random(1)
    job = worker.submit()["id"]
    lease = worker.lease()
    lease.state("running", "training")
    report(lease, chance, range(1, 2500))
    check_everywhere(api, job, chance)
    report(lease, chance, range(1900, 2200), size=40)  # a rewind: only some of its steps are shown again
    check_everywhere(api, job, chance)
    report(lease, chance, range(2600, 3000, 3))
    lease.fail("worker_lost", retryable=True)
    again = worker.lease(wait=10)
    again.state("running", "training")
    report(again, chance, range(700, 3600))  # from an older checkpoint, in a portion with what is new
    check_everywhere(api, job, chance)
    report(again, chance, range(10, 3600, 90))  # out of order throughout
    check_everywhere(api, job, chance)
    again.finish("released")


def test_one_spike_and_one_nan_are_seen_at_every_zoom(api: httpx.Client, worker: HandWorker) -> None:
    job = worker.submit()["id"]
    lease = worker.lease()
    records = [{"record": "metric", "step": step, "values": {"loss": 1.0}} for step in range(1, 6001)]
    records[2345]["values"], records[4000]["values"] = {"loss": 1e9}, {"loss": "NaN"}
    for start in range(0, len(records), 1000):
        lease.records(*records[start : start + 1000])
    for buckets in (2, 5, 33, 187):
        (series,) = api.get(f"/v1/jobs/{job}/metrics?buckets={buckets}").json()["data"]
        (spiked,) = [one for one in series["buckets"] if one[4] == 1e9]
        assert spiked[0] <= 2346 <= spiked[1]
        (odd,) = [one for one in series["buckets"] if one[6]]
        assert odd[0] <= 4001 <= odd[1]
        assert odd[6] == 1
    zoomed = api.get(f"/v1/jobs/{job}/metrics?buckets=50&from_step=4000&to_step=4002").json()
    assert [one[5] for one in zoomed["data"][0]["buckets"]] == [1.0, "NaN", 1.0]
    assert zoomed["data"][0]["width"] == 1
    assert zoomed["seq"] == 6000
    lease.finish("released")


def test_points_of_an_earlier_version_get_their_buckets_when_asked(own_service: Any) -> None:
    with own_service() as (client, worker):
        worker.register()
        job = worker.submit(spec())["id"]
        lease = worker.lease()
        report(lease, random.Random(3), range(1, 3000))

    async def forget() -> None:
        engine = create_async_engine(own_service.url)
        async with engine.begin() as connection:
            for statement in (
                "DELETE FROM metric_buckets",
                "DELETE FROM metric_series",
                "UPDATE jobs SET metric_built = 0",
            ):
                await connection.execute(text(statement))
        await engine.dispose()

    asyncio.run(forget())
    with own_service() as (client, _):
        check_everywhere(client, job, random.Random(4))


def test_the_stored_buckets_keep_up_with_large_reports(own_service: Any) -> None:
    with own_service() as (client, worker):
        worker.register()
        job = worker.submit(spec())["id"]
        lease = worker.lease()
        for first in range(0, 3000, 1000):
            values = {f"metric_{number}": 1.0 for number in range(20)}
            steps = range(first, first + 1000)
            assert lease.records(*({"record": "metric", "step": step, "values": values} for step in steps)).is_success

        async def left() -> int:
            engine = create_async_engine(own_service.url)
            async with engine.begin() as connection:
                query = text("SELECT metric_seq - metric_built FROM jobs WHERE id = :job")
                found = (await connection.execute(query, {"job": job})).scalar_one()
            await engine.dispose()
            return int(found)

        assert asyncio.run(left()) < 1024
        answer = client.get(f"/v1/jobs/{job}/metrics", params={"buckets": 100, "name": "metric_19"}).json()
        assert sum(bucket[2] for bucket in answer["data"][0]["buckets"]) == 3000


def test_a_request_for_four_metrics_is_small_whatever_its_numbers(api: httpx.Client, worker: HandWorker) -> None:
    job = worker.submit()["id"]
    lease = worker.lease()
    chance = random.Random(5)
    records = [
        {"record": "metric", "step": 1_000_000 + step,
         "values": {f"metric_{name}": -chance.random() * 1e-7 for name in range(4)}}
        for step in range(1200)
    ]  # fmt: skip
    for start in range(0, len(records), 300):
        lease.records(*records[start : start + 300])
    answer = check(api, job, all_points(api, job), buckets=1000)
    assert len(json.loads(answer.content)["data"]) == 4
    assert 10_000 < len(answer.content) <= 64_000
    lease.finish("released")


def test_edges_of_what_may_be_asked(api: httpx.Client, worker: HandWorker) -> None:
    job = worker.submit()["id"]
    lease = worker.lease()
    path = f"/v1/jobs/{job}/metrics"
    assert api.get(f"{path}?buckets=10").json()["data"] == []
    extremes = (-(2**63), -5, 0, 7, 2**63 - 1)
    lease.records(*({"record": "metric", "step": step, "values": {"x": step / 3, "x" * 300: 1}} for step in extremes))
    points = all_points(api, job)
    for buckets in (2, 3, 100):
        check(api, job, points, buckets=buckets)
    assert api.get(f"{path}?buckets=10&from_step=9&to_step=3").json()["data"][0]["buckets"] == []
    assert api.get(f"{path}?buckets=10&name=none").json()["data"] == []
    for query in ("buckets=1", "buckets=1001", "buckets=x", "buckets=2&from_step=x", f"buckets=2&to_step={2**63}"):
        assert api.get(f"{path}?{query}").status_code == 422, query
    assert api.get("/v1/jobs/job_none/metrics?buckets=2").status_code == 404
    lease.finish("released")
