"""A worker's side: leases, fencing, commands, endings, checkpoints."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.support.hand_worker import COMPONENTS, SPEC, HandLease, HandWorker, all_calls, spec

GPUS = [
    {"id": "GPU-a", "kind": "gpu", "memory_bytes": 8 * 1024**3},
    {"id": "GPU-b", "kind": "gpu", "memory_bytes": 80 * 1024**3},
]


# ── leases ───────────────────────────────────────────────────────────────────────────────────────


def test_a_resent_request_gets_the_same_lease(api: httpx.Client, worker: HandWorker) -> None:
    first, second = worker.submit(), worker.submit()
    one = worker.ask(request_id="resent").json()
    again = worker.ask(request_id="resent").json()
    assert (one["job_id"], one["attempt"], one["token"]) == (again["job_id"], again["attempt"], again["token"])
    assert one["job_id"] == first["id"]
    assert worker.job(second["id"])["state"] == "queued"
    HandLease(api, one).finish("released")
    assert worker.ask(request_id="resent").status_code == 204, "that lease is over"


def test_a_request_sent_twice_at_once_gets_one_lease(api: httpx.Client, worker: HandWorker) -> None:
    for _ in range(2):
        worker.submit()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: worker.ask(request_id="at once").json(), range(4)))
    assert len({(answer["job_id"], answer["token"]) for answer in answers}) == 1


def test_a_waiting_request_is_answered_when_a_job_comes(api: httpx.Client, worker: HandWorker) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(worker.ask, wait=20)
        job = worker.submit()
        assert waiting.result(15).json()["job_id"] == job["id"]


def test_nothing_fits_in_time_is_204(worker: HandWorker) -> None:
    assert worker.ask(wait=0.1).status_code == 204
    worker.submit()
    assert worker.ask(free_cpus=0).status_code == 204


def test_a_worker_that_is_not_registered_is_404(api: httpx.Client) -> None:
    assert HandWorker(api, "stranger").ask().json()["code"] == "not_found"


def test_a_token_opens_no_other_job(api: httpx.Client, worker: HandWorker) -> None:
    worker.submit()
    worker.submit()
    one, two = worker.lease(), worker.lease()
    crossed = HandLease(api, {**one.lease, "token": two.lease["token"]})
    assert {answer.status_code for answer in all_calls(crossed)} == {409}
    assert {answer.json()["code"] for answer in all_calls(crossed)} == {"lease_lost"}
    assert one.heartbeat().status_code == 200


# ── what fits ────────────────────────────────────────────────────────────────────────────────────


def test_a_job_that_fits_no_worker_says_why(own_service: Any) -> None:
    with own_service() as (client, worker):
        worker.register()
        job = worker.submit(spec(resources={"gpus": 1}))
        assert job["unschedulable"]["reason"] == "hand: it has 0 of 1 GPUs"
        labelled = worker.submit(spec(resources={"worker_labels": {"room": "blue"}}))
        assert "room=blue" in labelled["unschedulable"]["reason"]
        large = worker.submit(spec(resources={"cpus": 64}))
        assert large["unschedulable"]["reason"] == "hand: it has 4 of 64 cpus"
        assert worker.ask().status_code == 204
        tag = client.get(f"/v1/jobs/{labelled['id']}").headers["ETag"]
        worker.register(labels={"room": "blue"})
        changed = client.get(f"/v1/jobs/{labelled['id']}", headers={"If-None-Match": tag})
        assert changed.json()["unschedulable"] is None
        assert worker.lease().job_id == labelled["id"]


def test_gpus_are_taken_where_there_are_any(own_service: Any) -> None:
    with own_service() as (_, worker):
        worker.register(devices=[*GPUS, {"id": "cpu0", "kind": "cpu"}])
        worker.submit()
        assert worker.ask(free_cpus=4).status_code == 204, "it waits for a GPU"
        assert worker.lease(free_gpus=["GPU-a"]).lease["gpus"] == 1
        worker.submit(spec(resources={"gpu_memory_gib": 40}))
        assert worker.ask(free_gpus=["GPU-a"]).status_code == 204
        assert worker.lease(free_gpus=["GPU-b"]).lease["gpus"] == 1
        worker.submit(spec(resources={"gpus": 0}))
        assert worker.lease(free_cpus=4).lease["gpus"] == 0


def test_a_job_runs_with_the_sources_it_was_accepted_with(own_service: Any) -> None:
    with own_service() as (_, worker):
        worker.register()
        job = worker.submit()
        changed = [{**one, "digest": "1" * 64} if one["name"] == "mlp" else one for one in COMPONENTS]
        worker.register(changed)
        assert "'mlp'" in worker.job(job["id"])["unschedulable"]["reason"]
        assert worker.ask().status_code == 204
        worker.register()
        lease = worker.lease()
        assert {"kind": "model", "name": "mlp", "version": "1", "digest": "0" * 64} in lease.lease["components"]


# ── commands ─────────────────────────────────────────────────────────────────────────────────────


def test_a_cancel_reaches_the_worker_at_once(api: httpx.Client, worker: HandWorker) -> None:
    job = worker.submit()
    lease = worker.lease()
    lease.state("running")
    commands = f"{lease.path}/commands"
    assert api.get(f"{commands}?wait=0.1", headers=lease.headers).status_code == 204
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(api.get, f"{commands}?wait=30", headers=lease.headers)
        asked = api.post(f"/v1/jobs/{job['id']}/cancel").json()
        assert (asked["state"], asked["requested"]) == ("running", "cancel")
        assert waiting.result(10).json() == {"command": "cancel"}
    assert lease.heartbeat().json()["command"] == "cancel"
    assert lease.finish("cancelled").json() == {"state": "cancelled"}
    types = [event["type"] for event in api.get(f"/v1/jobs/{job['id']}/events").json()["data"]]
    assert types == ["state", "state", "state", "requested", "state"]


def test_commands_end_with_the_lease(api: httpx.Client, worker: HandWorker) -> None:
    worker.submit()
    lease = worker.lease()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(api.get, f"{lease.path}/commands?wait=30", headers=lease.headers)
        lease.finish("released")
        assert waiting.result(10).json()["code"] == "lease_lost"


# ── endings ──────────────────────────────────────────────────────────────────────────────────────


def test_the_same_ending_again_is_answered_alike(worker: HandWorker) -> None:
    job = worker.submit()
    lease = worker.lease()
    bundle = lease.upload("bundle.tar.gz", b"bundle")
    body = {"published": {"bundle": bundle, "formats": ["keras"]}}
    first, again = lease.finish("succeeded", **body), lease.finish("succeeded", **body)
    assert first.json() == again.json() == {"state": "succeeded"}
    revision = worker.job(job["id"])["revision"]
    other = lease.finish("failed", failure={"code": "internal", "message": "x"})
    assert (other.status_code, other.json()["code"]) == (409, "lease_lost")
    assert worker.job(job["id"])["revision"] == revision


def test_a_manifest_must_name_completed_uploads_of_the_attempt(api: httpx.Client, worker: HandWorker) -> None:
    worker.submit()
    worker.submit()
    lease, other = worker.lease(), worker.lease()
    begun = lease.begin("half.bin", b"half").json()
    half = {"path": "half.bin", "bytes": 4, "sha256": begun["sha256"], "upload_id": begun["id"]}
    foreign = other.upload("foreign.bin", b"foreign")
    whole = lease.upload("whole.bin", b"whole")
    for wrong in (half, foreign, {**whole, "path": "other.bin"}, {**whole, "bytes": 6}):
        answer = lease.finish("succeeded", published={"bundle": wrong})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == "/published/bundle"
    assert lease.finish("succeeded", published={"bundle": whole}, files=[half]).status_code == 422
    assert worker.job(lease.job_id)["model"] is None, "a refused ending publishes nothing"
    assert lease.finish("succeeded", published={"bundle": whole}).status_code == 200


def test_a_failure_tells_its_place_and_the_next_job_runs(api: httpx.Client, worker: HandWorker) -> None:
    job = worker.submit()
    lease = worker.lease()
    lease.state("running", "training")
    failure = {"code": "invalid_data", "message": "label 12", "location": {"component": "focal", "line": 3}}
    black_box = lease.upload("black_box.json", b"{}")
    assert lease.finish("failed", failure=failure, files=[black_box]).json() == {"state": "failed"}
    told = worker.job(job["id"])["failure"]
    assert (told["code"], told["attempt"], told["phase"], told["location"]["line"]) == (
        "invalid_data",
        1,
        "training",
        3,
    )
    assert told["hint"]
    assert api.get(f"/v1/jobs/{job['id']}/artifacts/black_box.json").content == b"{}"
    missing = api.get(f"/v1/jobs/{job['id']}/model")
    assert (missing.status_code, "failed" in missing.json()["detail"]) == (404, True)
    worker.submit()
    assert worker.lease().finish("succeeded").status_code == 200


def test_attempts_run_out(worker: HandWorker) -> None:
    job = worker.submit(spec(limits={"max_attempts": 2}))
    worker.lease().fail("worker_lost", retryable=True)
    seen = worker.job(job["id"])
    assert (seen["state"], seen["failed_attempts"], seen["failure"]) == ("queued", 1, None)
    worker.lease(wait=10).fail("worker_lost", retryable=True)
    seen = worker.job(job["id"])
    assert (seen["state"], seen["attempt"], seen["failure"]["code"]) == ("failed", 2, "worker_lost")


def test_what_is_left_of_the_time_goes_with_the_lease(worker: HandWorker) -> None:
    worker.submit(spec(limits={"timeout_seconds": 100.0}))
    lease = worker.lease()
    assert lease.lease["timeout_seconds"] == pytest.approx(100.0, abs=1)
    lease.finish("released")
    assert worker.lease().lease["timeout_seconds"] <= 100.0


# ── checkpoints ──────────────────────────────────────────────────────────────────────────────────


def test_the_next_attempt_goes_on_from_the_newest_checkpoint(api: httpx.Client, worker: HandWorker) -> None:
    job = worker.submit(spec(training={"epochs": 5, "checkpoint": {"keep": 2}}))
    lease = worker.lease()
    ids = []
    for step in (10, 20, 30, 40):
        file = lease.upload(f"checkpoints/{step}.tar", f"weights {step}".encode())
        body = {
            "upload_id": file["upload_id"],
            "step": step,
            "epoch": 1,
            "best": step == 10,
            "metrics": {"loss": "NaN"},
        }
        announced = lease.post("checkpoints", body)
        assert lease.post("checkpoints", body).json() == announced.json(), "announced again, it is the same"
        ids.append(announced.json()["checkpoint_id"])
    listed = api.get(f"/v1/jobs/{job['id']}/checkpoints").json()["data"]
    assert [one["step"] for one in listed] == [40, 30, 10], "two newest and the best"
    seen = worker.job(job["id"])["checkpoints"]
    assert (seen["latest"]["step"], seen["best"]["step"]) == (40, 10)
    assert api.get(f"/v1/jobs/{job['id']}/checkpoints/{ids[3]}").content == b"weights 40"
    assert api.get(f"/v1/jobs/{job['id']}/checkpoints/{ids[1]}").status_code == 404
    lease.fail("worker_lost", retryable=True)
    again = worker.lease(wait=10)
    assert [one["step"] for one in again.lease["resume"]] == [40, 30, 10]
    answer = api.get(f"{again.path}/checkpoints/{ids[3]}", headers=again.headers)
    assert answer.content == b"weights 40"
    assert api.get(f"{lease.path}/checkpoints/{ids[3]}", headers=lease.headers).status_code == 409


def test_only_a_completed_upload_becomes_a_checkpoint(api: httpx.Client, worker: HandWorker) -> None:
    job = worker.submit()
    lease = worker.lease()
    begun = lease.begin("checkpoints/1.tar", b"weights").json()
    answer = lease.post("checkpoints", {"upload_id": begun["id"], "step": 1, "epoch": 0})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/upload_id")
    assert api.get(f"/v1/jobs/{job['id']}/checkpoints").json()["data"] == []


def test_workers_are_listed_with_what_they_run(api: httpx.Client, worker: HandWorker) -> None:
    worker.submit(SPEC)
    lease = worker.lease()
    listed = {one["id"]: one for one in api.get("/v1/workers").json()["data"]}
    assert lease.job_id in listed["hand"]["jobs"]
    assert listed["hand"]["state"] == "ready"
