"""What workers announce, while it changes."""

from __future__ import annotations

from typing import Any

import httpx

from tests.support.hand_worker import COMPONENTS, HandWorker, spec

BODY = {"devices": [{"id": "cpu0", "kind": "cpu", "job_id": "job_of_before"}], "cpus": 4}


def register(client: httpx.Client, digest: str, catalogue: dict[str, Any] | None = None) -> dict[str, Any]:
    answer = client.put("/v1/worker/hand", json={**BODY, "catalogue_digest": digest, "catalogue": catalogue})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_what_was_announced_stands_until_the_new_catalogue_is_here(own_service: Any) -> None:
    with own_service() as (client, _):
        register(client, "a" * 64, {"components": COMPONENTS})
        assert register(client, "b" * 64)["catalogue_needed"]
        assert client.post("/v1/jobs/validate", json=spec()).status_code == 200
        assert client.get("/readyz").status_code == 200
        fewer = [entry for entry in COMPONENTS if entry["name"] != "focal"]
        assert not register(client, "b" * 64, {"components": fewer})["catalogue_needed"]
        assert client.get("/v1/components/loss/focal").status_code == 404
        assert register(client, "a" * 64)["catalogue_needed"], "what nobody has any more is forgotten"


def test_a_component_that_a_worker_refused_is_told_with_its_reason(own_service: Any) -> None:
    reason = "add_weight needs an initializer (acme.py, line 7)"
    catalogue = {"components": COMPONENTS, "refused": [{"kind": "loss", "name": "acme/Broken", "reason": reason}]}
    with own_service() as (client, _):
        register(client, "c" * 64, catalogue)
        [error] = client.post("/v1/jobs", json=spec(loss="acme/Broken")).json()["errors"]
        assert (error["pointer"], error["code"]) == ("/loss", "unknown_component")
        assert reason in error["hint"]
        assert client.get("/v1/workers").json()["data"][0]["refused"][0]["reason"] == reason


def test_a_device_shows_the_job_that_runs_there_now(own_service: Any) -> None:
    with own_service() as (client, worker):
        register(client, "d" * 64, {"components": COMPONENTS})
        [shown] = client.get("/v1/workers").json()["data"]
        assert shown["devices"][0]["job_id"] is None
        job = worker.submit()
        worker.lease()
        devices = [{"id": "cpu0", "kind": "cpu", "job_id": job["id"]}]
        client.put("/v1/worker/hand", json={**BODY, "devices": devices, "catalogue_digest": "d" * 64})
        [shown] = client.get("/v1/workers").json()["data"]
        assert shown["jobs"] == [shown["devices"][0]["job_id"]] == [job["id"]]


def test_other_bytes_under_one_name_and_version_are_refused(own_service: Any) -> None:
    changed = [entry | {"digest": "1" * 64} if entry["name"] == "scale" else entry for entry in COMPONENTS]
    scaled = [{"op": "map", "function": {"component": "scale"}}, {"op": "batch", "batch_size": 2}]
    with own_service() as (client, worker):
        worker.register()
        second = HandWorker(client, "second")
        second.register(changed)
        first_told, second_told = client.get("/v1/workers").json()["data"]
        assert first_told["refused"] == []
        [refused] = second_told["refused"]
        assert (refused["kind"], refused["name"], refused["version"]) == ("transform", "scale", "1")
        assert "'hand'" in refused["reason"]
        shown = client.get("/v1/components/transform/scale").json()
        assert (shown["digest"], shown["workers"]) == ("0" * 64, ["hand"])
        job = worker.submit(spec(data={"source": "digits", "pipeline": scaled}))
        assert second.ask().status_code == 204
        assert worker.lease().job_id == job["id"]
        worker.register(changed)
        assert [one["refused"] for one in client.get("/v1/workers").json()["data"]] == [[], []]
