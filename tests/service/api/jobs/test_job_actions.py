"""Every call that changes a job, in every state that a job can be in."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.support.hand_worker import SPEC, HandLease, HandWorker, spec

LOST = {"code": "worker_lost", "message": "gone", "retryable": True}


@dataclass
class Scene:
    """A job brought to a state by its worker, and the attempt that holds it, where one does."""

    worker: HandWorker
    job_id: str
    lease: HandLease | None = None

    @property
    def job(self) -> dict[str, Any]:
        return self.worker.job(self.job_id)

    def call(self, name: str) -> httpx.Response:
        path = f"/v1/jobs/{self.job_id}"
        client = self.worker.client
        if name == "priority":
            return client.patch(path, json={"priority": 7})
        if name == "name":
            return client.patch(path, json={"name": "another"})
        return client.delete(path) if name == "delete" else client.post(f"{path}/{name}")


def _queued(worker: HandWorker) -> Scene:
    return Scene(worker, worker.submit()["id"])


def _waiting(worker: HandWorker) -> Scene:
    first = worker.submit()["id"]
    return Scene(worker, worker.submit(spec(training={"epochs": 1, "initial_state": {"from": first}}))["id"])


def _held(*states: str, asked: str | None = None) -> Callable[[HandWorker], Scene]:
    def bring(worker: HandWorker) -> Scene:
        scene = _queued(worker)
        scene.lease = worker.lease()
        for state in states:
            assert scene.lease.state(state).is_success
        if asked is not None:
            assert scene.call(asked).is_success
        return scene

    return bring


def _paused(worker: HandWorker) -> Scene:
    scene = _held("running", asked="pause")(worker)
    assert scene.lease is not None
    assert scene.lease.finish("paused").is_success
    return Scene(worker, scene.job_id)


def _ended(outcome: str) -> Callable[[HandWorker], Scene]:
    def bring(worker: HandWorker) -> Scene:
        scene = _held("running", asked="cancel" if outcome == "cancelled" else None)(worker)
        assert scene.lease is not None
        scene.lease.checkpoint(b"state", step=3)
        ended = {"failed": lambda lease: lease.fail("non_finite"), "succeeded": lambda lease: lease.finish(outcome)}
        ended.get(outcome, lambda lease: lease.finish(outcome))(scene.lease)
        return Scene(worker, scene.job_id)

    return bring


SCENES: dict[str, Callable[[HandWorker], Scene]] = {
    "queued": _queued,
    "waiting": _waiting,
    "starting": _held(),
    "running": _held("running"),
    "pausing": _held("running", asked="pause"),
    "cancelling": _held("running", asked="cancel"),
    "exporting": _held("running", "exporting"),
    "verifying": _held("running", "exporting", "verifying"),
    "paused": _paused,
    "succeeded": _ended("succeeded"),
    "failed": _ended("failed"),
    "cancelled": _ended("cancelled"),
}
CALLS = ("cancel", "pause", "resume", "retry", "priority", "name", "delete")
NO = (409, None, None)
# scene → for each of CALLS: the status, then the state and what is requested; None: as before.
TABLE: dict[str, tuple[tuple[int, str | None, str | None], ...]] = {
    "queued": ((200, "cancelled", "none"), (200, "paused", "none"), NO, NO, (200, None, None), (200, None, None), NO),
    "waiting": ((200, "cancelled", "none"), (200, "paused", "none"), NO, NO, (200, None, None), (200, None, None), NO),
    "starting": ((200, None, "cancel"), (200, None, "pause"), NO, NO, (200, None, None), (200, None, None), NO),
    "running": ((200, None, "cancel"), (200, None, "pause"), NO, NO, (200, None, None), (200, None, None), NO),
    "pausing": (
        (200, None, "cancel"), (200, None, "pause"), (200, None, "none"), NO, (200, None, None), (200, None, None), NO,
    ),
    "cancelling": ((200, None, "cancel"), NO, NO, NO, (200, None, None), (200, None, None), NO),
    "exporting": ((200, None, "cancel"), NO, NO, NO, (200, None, None), (200, None, None), NO),
    "verifying": ((200, None, "cancel"), NO, NO, NO, (200, None, None), (200, None, None), NO),
    "paused": ((200, "cancelled", "none"), NO, (200, "queued", "none"), NO, (200, None, None), (200, None, None), NO),
    "succeeded": (NO, NO, NO, (201, None, None), NO, (200, None, None), (204, None, None)),
    "failed": (NO, NO, NO, (201, None, None), NO, (200, None, None), (204, None, None)),
    "cancelled": (NO, NO, NO, (201, None, None), NO, (200, None, None), (204, None, None)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("scene", TABLE)
def test_every_call_in_every_state(worker: HandWorker, scene: str) -> None:
    for name, (status, state, requested) in zip(CALLS, TABLE[scene], strict=True):
        there = SCENES[scene](worker)
        before = there.job
        answer = there.call(name)
        assert answer.status_code == status, (scene, name, answer.text)
        if status == 204:
            assert there.call("name").status_code == 404
            continue
        after = there.job
        if status == 409:
            problem = answer.json()
            assert (problem["code"], problem["state"]) == ("conflict", before["state"]), (scene, name)
            assert len(problem["detail"]) > 10
            assert after == before, (scene, name, "a refusal changes nothing")
        else:
            wanted = (state or before["state"], requested or before["requested"])
            assert (after["state"], after["requested"]) == wanted, (scene, name)
        worker.empty_queue()
        if there.lease is not None:
            there.lease.finish("cancelled")


# ── what becomes of a wish when the attempt ends ─────────────────────────────────────────────────


@pytest.mark.parametrize("outcome", ["released", "failed", "paused", "cancelled"])
@pytest.mark.parametrize(("wish", "state"), [("pause", "paused"), ("cancel", "cancelled")])
def test_a_wish_holds_however_the_attempt_ends(worker: HandWorker, wish: str, state: str, outcome: str) -> None:
    scene = _held("running", asked=wish)(worker)
    assert scene.lease is not None
    told = {"failure": LOST} if outcome == "failed" else {}
    assert scene.lease.finish(outcome, **told).is_success
    assert (scene.job["state"], scene.job["requested"]) == (state, "none")
    assert scene.job["failed_attempts"] == (outcome == "failed" and wish == "pause")


def test_what_succeeded_is_published_whatever_was_asked_for(worker: HandWorker) -> None:
    for wish in ("pause", "cancel"):
        scene = _held("running", asked=wish)(worker)
        assert scene.lease is not None
        scene.lease.succeed(b"bundle")
        assert scene.job["state"] == "succeeded"


def test_a_pause_that_was_taken_back_leaves_the_job_queued(worker: HandWorker) -> None:
    scene = _held("running", asked="pause")(worker)
    assert scene.lease is not None
    assert scene.call("resume").is_success
    assert scene.lease.finish("paused").is_success, "its runner had been told already"
    assert scene.job["state"] == "queued"
    assert worker.lease().attempt == 2


def test_a_reaped_attempt_whose_pause_was_asked_for_is_paused(own_service: Any) -> None:
    with own_service(lease_seconds=0.3, reaper_seconds=0.1) as (client, worker):
        worker.register()
        scene = _held("running", asked="pause")(worker)
        revision = scene.job["revision"]
        seen = client.get(f"/v1/jobs/{scene.job_id}?wait=20&unless={revision}").json()
        assert (seen["state"], seen["failed_attempts"]) == ("paused", 1)


def test_a_paused_job_that_waits_for_another_settles_and_goes_on(worker: HandWorker) -> None:
    first = worker.submit()["id"]
    scene = Scene(worker, worker.submit(spec(training={"epochs": 1, "initial_state": {"from": first}}))["id"])
    assert scene.call("pause").is_success
    worker.lease().succeed(b"weights")
    assert (scene.job["state"], scene.job["waiting_for"]) == ("paused", [])
    assert worker.ask().status_code == 204, "a paused job is nobody's turn"
    assert scene.call("resume").is_success
    lease = worker.lease()
    assert lease.job_id == scene.job_id
    assert [one["kind"] for one in lease.lease["inputs"]] == ["bundle"]


def test_the_time_of_a_pause_is_none_of_the_jobs_limit(worker: HandWorker, api: httpx.Client) -> None:
    scene = Scene(worker, worker.submit(spec(limits={"timeout_seconds": 60}))["id"])
    left = [worker.lease()]
    scene.call("pause")
    left[0].finish("paused")
    paused_at = scene.job["transitions"][-1]["at"]
    assert scene.call("resume").is_success
    left.append(worker.lease())
    seconds = [lease.lease["timeout_seconds"] for lease in left]
    assert 60 >= seconds[0] > seconds[1] > 50
    assert scene.job["transitions"][-2]["at"] >= paused_at


# ── retries ──────────────────────────────────────────────────────────────────────────────────────


def retry(scene: Scene, start: str | None = None, **headers: str) -> httpx.Response:
    body = None if start is None else {"from": start}
    return scene.worker.client.post(f"/v1/jobs/{scene.job_id}/retry", json=body, headers=headers)


def test_a_retry_from_a_checkpoint_is_given_it_and_prefers_its_own(worker: HandWorker, api: httpx.Client) -> None:
    source = Scene(worker, worker.submit(spec(name="first", labels={"team": "a"}, priority=3))["id"])
    lease = worker.lease()
    older, newer = (lease.checkpoint(f"state {step}".encode(), step=step) for step in (5, 9))
    lease.fail("non_finite")
    answer = retry(source, "latest")
    assert answer.status_code == 201, answer.text
    job = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert (job["name"], job["labels"], job["priority"], job["attempt"]) == ("first", {"team": "a"}, 3, 0)
    assert job["lineage"]["retry_of"] == source.job_id
    (told,) = job["lineage"]["inputs"]
    assert (told["from"], told["job_id"], told["resume"]) == (newer, source.job_id, True)
    assert job["spec"] == source.job["spec"]

    again = worker.lease()
    assert [(one["checkpoint_id"], one["step"]) for one in again.lease["resume"]] == [(newer, 9)]
    assert again.lease["inputs"] == []
    content = api.get(f"{again.path}/checkpoints/{newer}", headers=again.headers)
    assert content.content == b"state 9"
    assert api.get(f"{again.path}/checkpoints/{older}", headers=again.headers).status_code == 404
    refused = source.call("delete")
    assert (refused.status_code, refused.json()["code"]) == (409, "in_use")
    own = again.checkpoint(b"state 12", step=12)
    again.finish("released")
    third = worker.lease()
    assert [one["checkpoint_id"] for one in third.lease["resume"]] == [own, newer]
    third.finish("succeeded")
    assert source.call("delete").status_code == 204


def test_a_retry_is_from_scratch_unless_asked_and_safe_to_repeat(worker: HandWorker) -> None:
    source = _ended("failed")(worker)
    first = retry(source, **{"Idempotency-Key": f"again {source.job_id}"})
    second = retry(source, "scratch", **{"Idempotency-Key": f"again {source.job_id}"})
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["id"] == second.json()["id"]
    other = retry(source, "latest", **{"Idempotency-Key": f"again {source.job_id}"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    assert worker.lease().lease["resume"] == []


@pytest.mark.parametrize("start", ["best", "ckpt_0", "newest", 5, None])
def test_a_retry_from_what_is_not_there_is_422(worker: HandWorker, start: Any) -> None:
    source = _ended("failed")(worker)
    answer = worker.client.post(f"/v1/jobs/{source.job_id}/retry", json={"from": start})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["pointer"].startswith("/from")


def test_a_retry_of_what_no_worker_can_build_any_more_is_422(own_service: Any) -> None:
    with own_service() as (_, worker):
        worker.register()
        source = _ended("failed")(worker)
        worker.register([{"kind": "source", "name": "digits", "digest": "0" * 64, "config_schema": {}}])
        answer = retry(source)
        assert (answer.status_code, answer.json()["code"]) == (422, "unknown_component"), answer.text


# ── draining a worker ────────────────────────────────────────────────────────────────────────────


def test_a_drained_worker_hands_back_and_takes_nothing(own_service: Any) -> None:
    with own_service() as (client, worker):
        worker.register()
        _drained(client, worker)


def _drained(api: httpx.Client, worker: HandWorker) -> None:
    scene = _held("running")(worker)
    lease = scene.lease
    assert lease is not None
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(api.get, f"{lease.path}/commands?wait=20", headers=lease.headers)
        drained = api.post(f"/v1/workers/{worker.id}/drain")
        assert (drained.status_code, drained.json()["state"]) == (200, "draining")
        assert waiting.result().json() == {"command": "drain"}
    assert lease.heartbeat().json()["command"] == "drain"
    scene.call("pause")
    assert lease.heartbeat().json()["command"] == "pause", "what the user asks for comes first"
    scene.call("resume")
    assert lease.finish("released").is_success
    assert (scene.job["state"], scene.job["failed_attempts"]) == ("queued", 0)
    worker.register()
    assert worker.ask().status_code == 204, "a worker that registers again is still drained"
    other = HandWorker(api, "other")
    other.register()
    taken = other.lease()
    assert (taken.job_id, taken.attempt) == (scene.job_id, 2)
    taken.finish("succeeded")
    assert api.post(f"/v1/workers/{worker.id}/undrain").json()["state"] == "ready"
    worker.submit(SPEC)
    assert worker.ask().status_code == 200
