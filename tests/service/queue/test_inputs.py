"""Jobs that go on from what another one left: found, pinned, waited for, kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from tapeworks_service.database.engine import Database
from tapeworks_service.database.tables import artifacts, events, jobs, uploads
from tapeworks_service.wakeups import WakeHub
from tests.support.hand_worker import SPEC, HandLease, HandWorker, sha, spec


def starts_from(reference: str, **changes: Any) -> dict[str, Any]:
    return spec(training={"epochs": 1, "initial_state": {"from": reference}}, **changes)


def model_from(reference: str, **changes: Any) -> dict[str, Any]:
    return spec(model={**SPEC["model"], "initial_state": {"from": reference}}, **changes)


def pretrained(reference: str, **changes: Any) -> dict[str, Any]:
    base = {"component": "pretrained", "config": {"from": reference}}
    inner = {"component": "sequential", "config": {"layers": [base]}}
    head = {"component": "keras/Dense", "config": {"units": 10}}
    return spec(
        model={
            "component": "sequential",
            "config": {"layers": [inner, head]},
        },
        **changes,
    )


PLACES = {
    starts_from: "/training/initial_state/from",
    model_from: "/model/initial_state/from",
    pretrained: "/model/config/layers/0/config/layers/0/config/from",
}


def begun(worker: HandWorker, document: dict[str, Any] | None = None) -> HandLease:
    """A job that the worker holds."""
    job = worker.submit(document)
    lease = worker.lease()
    assert lease.job_id == job["id"]
    return lease


def finished(worker: HandWorker, bundle: bytes = b"a bundle") -> str:
    """A job that left a bundle."""
    lease = begun(worker)
    lease.succeed(bundle)
    return lease.job_id


def types(api: httpx.Client, job_id: str) -> list[str]:
    return [event["type"] for event in api.get(f"/v1/jobs/{job_id}/events").json()["data"]]


def read(lease: HandLease, index: int) -> httpx.Response:
    return lease.client.get(f"{lease.path}/inputs/{index}", headers=lease.headers)


# ── at POST ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("reference", "code", "said"),
    [
        ("job_019b7c3e5d1a7c2e8f4b6a9d0c1e2f3a", "invalid_value", "there is no job"),
        ("ckpt_019b7c3e5d1a7c2e8f4b6a9d0c1e2f3a", "invalid_value", "there is no checkpoint"),
        ("job_../1", "invalid_value", "not an id"),
        ("resnet@best", "not_supported", "jobs, checkpoints and bundles only"),
    ],
)
def test_what_leads_nowhere_is_told_at_its_place(
    worker: HandWorker, api: httpx.Client, place: Callable[..., dict[str, Any]], reference: str, code: str, said: str
) -> None:
    for path in ("/v1/jobs", "/v1/jobs/validate", "/v1/jobs/validate?trace=true"):
        answer = api.post(path, json=place(reference))
        assert answer.status_code == 422, answer.text
        [error] = answer.json()["errors"]
        assert (error["pointer"], error["code"]) == (PLACES[place], code)
        assert said in error["message"]


def test_all_wrong_places_are_told_at_once(worker: HandWorker, api: httpx.Client) -> None:
    document = {**starts_from("job_1"), "model": model_from("ckpt_2")["model"]}
    errors = api.post("/v1/jobs", json=document).json()["errors"]
    assert [error["pointer"] for error in errors] == [PLACES[starts_from], PLACES[model_from]]


@pytest.mark.parametrize("place", PLACES)
def test_a_finished_job_is_pinned_to_its_bundle(
    worker: HandWorker, api: httpx.Client, place: Callable[..., dict[str, Any]]
) -> None:
    source = finished(worker, b"what was trained")
    job = worker.submit(place(source))
    assert (job["state"], job["waiting_for"]) == ("queued", [])
    told = {
        "from": source,
        "job_id": source,
        "kind": "bundle",
        "checkpoint_id": None,
        "sha256": sha(b"what was trained"),
    }
    assert job["lineage"]["inputs"] == [told]
    assert types(api, job["id"]) == ["state", "pinned"]
    lease = worker.lease()
    [given] = lease.lease["inputs"]
    assert given == {"from": source, "kind": "bundle", "bytes": 16, "sha256": sha(b"what was trained"), "about": {}}
    assert read(lease, 0).content == b"what was trained"
    assert read(lease, 1).status_code == 404
    stranger = api.get(f"{lease.path}/inputs/0", headers={"Tapeworks-Lease": "guessed"})
    assert (stranger.status_code, stranger.json()["code"]) == (409, "lease_lost")
    lease.fail("invalid_data")


def test_a_job_without_a_bundle_is_pinned_to_its_latest_checkpoint(worker: HandWorker) -> None:
    lease = begun(worker, spec(export=None))
    lease.checkpoint(b"step 1", step=1)
    latest = lease.checkpoint(b"step 2", step=2)
    lease.succeed()
    job = worker.submit(starts_from(lease.job_id))
    assert [(one["kind"], one["checkpoint_id"]) for one in job["lineage"]["inputs"]] == [("checkpoint", latest)]
    assert read(worker.lease(), 0).content == b"step 2"


def test_two_references_to_one_id_are_one_input(worker: HandWorker) -> None:
    source = finished(worker)
    worker.submit({**starts_from(source), "model": model_from(source)["model"]})
    assert [one["from"] for one in worker.lease().lease["inputs"]] == [source]


def test_a_job_that_left_nothing_is_refused_and_its_checkpoint_may_be_named(
    worker: HandWorker, api: httpx.Client
) -> None:
    lease = begun(worker)
    checkpoint = lease.checkpoint(b"before it failed", step=7)
    lease.fail("non_finite")
    [error] = api.post("/v1/jobs", json=starts_from(lease.job_id)).json()["errors"]
    assert error["pointer"] == "/training/initial_state/from"
    assert "has failed" in error["message"]
    assert checkpoint in error["hint"]
    worker.submit(starts_from(checkpoint))
    assert read(worker.lease(), 0).content == b"before it failed"

    empty = begun(worker, spec(export=None))
    empty.succeed()
    [error] = api.post("/v1/jobs", json=starts_from(empty.job_id)).json()["errors"]
    assert "neither a bundle nor a checkpoint" in error["message"]


def test_another_projects_job_does_not_exist(own_sqlite_service: Any, tmp_path: Path) -> None:
    with own_sqlite_service() as (_, worker):
        worker.register()
        source = finished(worker)

    async def move() -> None:
        database = Database(f"sqlite+aiosqlite:///{tmp_path / 'data/tapeworks.db'}", hub=WakeHub(), busy_seconds=5)
        await database.open()
        async with database.write() as tx:
            await tx.execute(text("PRAGMA defer_foreign_keys=ON"))
            await tx.execute(text("INSERT INTO projects SELECT 'other', created_at FROM projects"))
            for table in (jobs, events, artifacts, uploads):
                await tx.execute(table.update().values(project_id="other"))
        await database.close()

    asyncio.run(move())
    with own_sqlite_service() as (client, worker):
        worker.register()
        [error] = client.post("/v1/jobs", json=starts_from(source)).json()["errors"]
        assert "there is no job" in error["message"]


# ── waiting ──────────────────────────────────────────────────────────────────────────────────────


def test_a_job_waits_for_one_that_has_not_ended(worker: HandWorker, api: httpx.Client) -> None:
    source = begun(worker)
    checked = api.post("/v1/jobs/validate", json=starts_from(source.job_id)).json()
    assert checked["warnings"] == [f"{source.job_id} has not ended: the job would wait for it"]
    job = worker.submit(starts_from(source.job_id, priority=50))
    assert (job["state"], job["waiting_for"]) == ("queued", [source.job_id])
    assert types(api, job["id"]) == ["state", "waiting"]
    other = worker.submit()
    assert worker.lease().job_id == other["id"], "the higher priority does not count while it waits"
    assert worker.ask().status_code == 204
    source.succeed(b"at last")
    seen = worker.job(job["id"])
    assert (seen["state"], seen["waiting_for"]) == ("queued", [])
    assert seen["lineage"]["inputs"][0]["sha256"] == sha(b"at last")
    assert seen["revision"] > job["revision"]
    assert types(api, job["id"]) == ["state", "waiting", "pinned"]
    lease = worker.lease()
    assert lease.job_id == job["id"]
    assert read(lease, 0).content == b"at last"


def test_an_idle_worker_is_woken_when_the_wait_ends(worker: HandWorker) -> None:
    source = begun(worker)
    job = worker.submit(starts_from(source.job_id))
    source.succeed(b"bundle")
    assert worker.lease(wait=20).job_id == job["id"]


def test_a_job_waits_for_all_that_it_names(worker: HandWorker) -> None:
    first, second = begun(worker), begun(worker)
    done = finished(worker)
    document = {**starts_from(first.job_id), "model": model_from(second.job_id)["model"]}
    document["model"]["component"] = "sequential"
    document["model"]["config"] = pretrained(done)["model"]["config"]
    job = worker.submit(document)
    assert job["waiting_for"] == [first.job_id, second.job_id]
    second.succeed(b"second")
    assert worker.job(job["id"])["waiting_for"] == [first.job_id]
    assert worker.ask().status_code == 204
    first.succeed(b"first")
    lease = worker.lease()
    assert [read(lease, index).content for index in range(3)] == [b"first", b"second", b"a bundle"]


@pytest.mark.parametrize("ending", ["failed", "cancelled", "nothing"])
def test_a_chain_fails_with_its_first_job(worker: HandWorker, api: httpx.Client, ending: str) -> None:
    source = begun(worker, spec(export=None))
    second = worker.submit(starts_from(source.job_id))
    third = worker.submit(pretrained(second["id"]))
    both = worker.submit({**starts_from(second["id"]), "model": model_from(third["id"])["model"]})
    if ending == "failed":
        source.fail("non_finite")
    elif ending == "cancelled":
        api.post(f"/v1/jobs/{source.job_id}/cancel")
        source.finish("cancelled")
    else:
        source.succeed()
    for job in (second, third, both):
        seen = worker.job(job["id"])
        assert (seen["state"], seen["failure"]["code"]) == ("failed", "dependency_failed")
        assert (seen["attempt"], seen["waiting_for"], seen["finished_at"] is None) == (0, [], False)
    assert source.job_id in worker.job(second["id"])["failure"]["message"]
    assert second["id"] in worker.job(third["id"])["failure"]["message"]
    assert worker.ask().status_code == 204


def test_a_failure_that_is_tried_again_ends_no_wait(worker: HandWorker) -> None:
    source = begun(worker)
    job = worker.submit(starts_from(source.job_id))
    source.finish("released")
    again = worker.lease()
    assert again.job_id == source.job_id
    assert worker.job(job["id"])["waiting_for"] == [source.job_id]
    again.succeed(b"second try")
    assert worker.lease().job_id == job["id"]


def test_a_waiting_job_can_be_cancelled_and_is_left_alone_then(worker: HandWorker, api: httpx.Client) -> None:
    source = begun(worker)
    job = worker.submit(starts_from(source.job_id))
    follower = worker.submit(starts_from(job["id"]))
    answer = api.post(f"/v1/jobs/{job['id']}/cancel").json()
    assert (answer["state"], answer["waiting_for"]) == ("cancelled", [])
    assert worker.job(follower["id"])["failure"]["code"] == "dependency_failed"
    revision = worker.job(job["id"])["revision"]
    source.succeed(b"too late")
    assert worker.job(job["id"])["revision"] == revision
    assert worker.ask().status_code == 204


def test_jobs_that_wait_take_no_round_from_others(worker: HandWorker) -> None:
    source = begun(worker)
    waiting = [worker.submit(starts_from(source.job_id))["id"] for _ in range(3)]
    ready = worker.submit()["id"]
    source.succeed(b"bundle")
    order = [worker.lease().job_id for _ in range(4)]
    assert order == [ready, *waiting]


# ── what is kept ─────────────────────────────────────────────────────────────────────────────────


def test_what_an_unfinished_job_goes_on_from_is_not_deleted(worker: HandWorker, api: httpx.Client) -> None:
    source = finished(worker)
    job = worker.submit(starts_from(source))
    refused = api.delete(f"/v1/jobs/{source}")
    assert (refused.status_code, refused.json()["code"]) == (409, "in_use")
    assert refused.json()["used_by"] == [job["id"]]
    lease = worker.lease()
    assert api.delete(f"/v1/jobs/{source}").status_code == 409
    lease.succeed(b"the next")
    assert api.delete(f"/v1/jobs/{source}").status_code == 204
    assert worker.job(job["id"])["lineage"]["inputs"][0]["job_id"] == source


def test_a_checkpoint_that_a_job_goes_on_from_outlives_keep(worker: HandWorker, api: httpx.Client) -> None:
    source = begun(worker, spec(training={"epochs": 1, "checkpoint": {"keep": 1}}))
    wanted = source.checkpoint(b"step 1", step=1)
    job = worker.submit(starts_from(wanted))
    for step in (2, 3):
        latest = source.checkpoint(f"step {step}".encode(), step=step)

    def listed() -> list[str]:
        return [one["id"] for one in api.get(f"/v1/jobs/{source.job_id}/checkpoints").json()["data"]]

    assert listed() == [latest, wanted]
    lease = worker.lease()
    assert lease.job_id == job["id"], "the checkpoint of a running job is gone on from at once"
    assert read(lease, 0).content == b"step 1"
    lease.succeed(b"done")
    last = source.checkpoint(b"step 4", step=4)
    assert listed() == [last]
