"""Records of an attempt: stored once, in order, and told so that a job never seems to go back."""

from __future__ import annotations

import httpx

from tests.support.hand_worker import HandWorker


def test_records_sent_again_are_stored_once(api: httpx.Client, worker: HandWorker) -> None:
    job = worker.submit()
    lease = worker.lease()
    lines = [{"index": index, "record": "log", "stream": "stdout", "text": str(index)} for index in range(1, 6)]
    assert lease.post("records", {"records": lines[:3]}).json() == {"stored": 3}
    assert lease.post("records", {"records": lines}).json() == {"stored": 5}
    assert lease.post("records", {"records": lines}).json() == {"stored": 5}
    logs = api.get(f"/v1/jobs/{job['id']}/logs").json()["data"]
    assert [(line["seq"], line["text"]) for line in logs] == [(index, str(index)) for index in range(1, 6)]


def test_what_follows_a_gap_waits_for_a_resend(worker: HandWorker) -> None:
    worker.submit()
    lease = worker.lease()
    lines = [{"index": index, "record": "log", "stream": "stdout", "text": ""} for index in (1, 2, 4)]
    assert lease.post("records", {"records": lines}).json() == {"stored": 2}


def test_an_ending_waits_for_its_records(worker: HandWorker) -> None:
    worker.submit()
    lease = worker.lease()
    early = lease.post("finish", {"outcome": "succeeded", "last_record": 1})
    assert (early.status_code, early.json()["code"], early.json()["stored"]) == (409, "conflict", 0)
    lease.records({"record": "log", "stream": "stdout", "text": "last"})
    assert lease.finish("succeeded").status_code == 200


def test_a_job_never_seems_to_go_back(api: httpx.Client, worker: HandWorker) -> None:
    job = worker.submit()
    lease = worker.lease()
    lease.state("running", "training")
    lease.progress(step=10, epoch=1, total_steps=100)
    lease.progress(step=5, epoch=0)
    lease.progress(step=7, epoch=1)
    assert worker.job(job["id"])["progress"]["step"] == 10
    lease.state("starting")
    assert worker.job(job["id"])["state"] == "running"
    lease.fail("worker_lost", retryable=True)
    again = worker.lease(wait=10)
    seen = worker.job(job["id"])
    assert (seen["attempt"], seen["state"], seen["progress"]["step"]) == (2, "starting", 0)
    assert seen["progress"]["total_steps"] == 100
    again.finish("released")


def test_phases_are_told_as_events_but_make_no_transition(api: httpx.Client, worker: HandWorker) -> None:
    job = worker.submit()
    lease = worker.lease()
    for phase in ("compiling", "training", "validating"):
        lease.state("running", phase)
    seen = worker.job(job["id"])
    assert seen["phase"] == "validating"
    assert [step["state"] for step in seen["transitions"]] == ["queued", "starting", "running"]
    events = api.get(f"/v1/jobs/{job['id']}/events").json()["data"]
    assert [event["data"]["phase"] for event in events][2:] == ["compiling", "training", "validating"]


def test_odd_values_are_stored_and_told_as_json(api: httpx.Client, worker: HandWorker) -> None:
    job = worker.submit()
    lease = worker.lease()
    raw = (
        b'{"records": [{"index": 1, "record": "metric", "step": 1, "values": {"loss": NaN, "top": "Infinity"}},'
        b'{"index": 2, "record": "log", "stream": "stderr", "text": "a\\u0000b \\ud83d"},'
        b'{"index": 3, "record": "event", "type": "epoch", "data": {"logs": {"loss": -Infinity}}},'
        b'{"index": 4, "record": "event", "type": "state", "data": {"state": "succeeded"}}]}'
    )
    assert api.post(f"{lease.path}/records", content=raw, headers=lease.headers).json() == {"stored": 4}
    assert worker.job(job["id"])["metrics"] == {"loss": "NaN", "top": "Infinity"}
    series = {one["name"]: one["points"] for one in api.get(f"/v1/jobs/{job['id']}/metrics").json()["data"]}
    assert (series["loss"][0][1], series["top"][0][1]) == ("NaN", "Infinity")
    assert api.get(f"/v1/jobs/{job['id']}/logs").json()["data"][0]["text"] == "a\ufffdb ?"
    events = api.get(f"/v1/jobs/{job['id']}/events").json()["data"]
    assert [event["type"] for event in events] == ["state", "state", "epoch"], "states are the service's to tell"


def test_metrics_are_the_newest_attempts_and_thin_out_to_the_last_point(api: httpx.Client, worker: HandWorker) -> None:
    job = worker.submit()
    lease = worker.lease()
    lease.records(*({"record": "metric", "step": step, "values": {"loss": 1.0}} for step in range(1, 101)))
    lease.fail("worker_lost", retryable=True)
    again = worker.lease(wait=10)
    again.records(*({"record": "metric", "step": step, "values": {"loss": 2.0}} for step in range(1, 51)))
    points = api.get(f"/v1/jobs/{job['id']}/metrics").json()["data"][0]["points"]
    assert [(step, value) for step, value, _ in points] == [
        (step, 2.0 if step <= 50 else 1.0) for step in range(1, 101)
    ]
    thin = api.get(f"/v1/jobs/{job['id']}/metrics?points=10").json()["data"][0]["points"]
    assert (len(thin), thin[0][0], thin[-1]) == (10, 1, points[-1])
    assert [point for point in points if point in thin] == thin
    assert api.get(f"/v1/jobs/{job['id']}/metrics?points=1").json()["data"][0]["points"] == [points[-1]]
    assert api.get(f"/v1/jobs/{job['id']}/metrics?points=100").json()["data"][0]["points"] == points


def test_metrics_with_gaps_are_thinned_along_their_steps(api: httpx.Client, worker: HandWorker) -> None:
    job, steps = worker.submit(), [*range(3, 40), 500, 502, 90_000, 1_000_000]
    lease = worker.lease()
    lease.records(*({"record": "metric", "step": step, "values": {"b": step, "a": -step}} for step in steps))
    lease.records({"record": "metric", "step": 7, "values": {"seldom": 1.0}})
    found = api.get(f"/v1/jobs/{job['id']}/metrics?points=12").json()["data"]
    places = [1_000_000 - number * (1_000_000 - 3) // 11 for number in range(12)]
    kept = sorted({min(step for step in steps if step >= place) for place in places})
    assert [(one["name"], [point[:2] for point in one["points"]]) for one in found] == [
        ("a", [[step, -step] for step in kept]),
        ("b", [[step, step] for step in kept]),
        ("seldom", [[7, 1.0]]),
    ]
