"""One job through every call: submit, lease, records, checkpoint, finish, look, download."""

from __future__ import annotations

import base64

import httpx

from tests.support.hand_worker import SPEC, HandWorker, sha


def test_a_job_from_post_to_download(api: httpx.Client, worker: HandWorker) -> None:
    made = api.post("/v1/jobs", json=SPEC)
    assert made.status_code == 201
    job = made.json()
    assert made.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert (job["state"], job["attempt"], job["unschedulable"]) == ("queued", 0, None)
    assert job["spec"]["models"]["model"]["version"] == "1"
    assert job["spec"]["losses"]["model"]["version"] == "2", "the newest version is pinned"

    lease = worker.lease()
    assert lease.job_id == job["id"]
    assert (lease.attempt, lease.lease["gpus"], lease.lease["resume"]) == (1, 0, [])
    assert lease.heartbeat().json() == {"lease_seconds": 20.0, "command": None}
    assert lease.state("running", "training").json() == {"stored": 1}
    stored = lease.records(
        {"record": "event", "type": "trace", "data": {"count": 1, "reason": "first"}},
        {"record": "log", "stream": "stdout", "text": "hello"},
        {"record": "metric", "step": 45, "values": {"loss": 0.5, "val_loss": "NaN"}},
        {"record": "facts", "progress": {"step": 45, "epoch": 1, "total_steps": 225}, "lineage": {"device": "cpu"}},
    )
    assert stored.json() == {"stored": 5}
    checkpoint = lease.upload("checkpoints/45.tar", b"weights")
    announced = lease.post("checkpoints", {"upload_id": checkpoint["upload_id"], "step": 45, "epoch": 1})
    assert announced.status_code == 201
    lease.state("exporting")
    lease.state("verifying")
    bundle = lease.upload("bundle.tar.gz", b"a whole bundle")
    keras = lease.upload("keras.tar.gz", b"a part")
    published = {
        "bundle": bundle, "parts": {"keras": keras}, "formats": ["keras"], "verified": {"reload": {"equal": True}},
    }  # fmt: skip
    finish = lease.finish("succeeded", published=published, metrics={"loss": 0.1, "test_loss": 0.2})
    assert finish.status_code == 200, finish.text

    job = worker.job(job["id"])
    assert [step["state"] for step in job["transitions"]] == [
        "queued", "starting", "running", "exporting", "verifying", "succeeded",
    ]  # fmt: skip
    assert job["metrics"] == {"loss": 0.1, "val_loss": "NaN", "test_loss": 0.2}
    assert job["progress"]["step"] == 45
    assert job["progress"]["total_steps"] == 225
    assert job["lineage"]["device"] == "cpu"
    assert job["lineage"]["seed"] == 0
    assert job["checkpoints"]["latest"]["id"] == announced.json()["checkpoint_id"]
    assert job["model"]["sha256"] == bundle["sha256"]
    assert job["worker"] == "hand"
    assert job["finished_at"] >= job["started_at"] >= job["created_at"]

    events = api.get(f"/v1/jobs/{job['id']}/events").json()["data"]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    told = [event["data"]["state"] for event in events if event["type"] == "state"]
    assert told == [step["state"] for step in job["transitions"]]
    assert api.get(f"/v1/jobs/{job['id']}/logs").json()["data"][0]["text"] == "hello"
    series = api.get(f"/v1/jobs/{job['id']}/metrics").json()["data"]
    assert [(one["name"], one["points"][0][:2]) for one in series] == [("loss", [45, 0.5]), ("val_loss", [45, "NaN"])]

    model = api.get(f"/v1/jobs/{job['id']}/model")
    assert model.content == b"a whole bundle"
    digest = base64.b64encode(bytes.fromhex(sha(model.content))).decode()
    assert model.headers["Repr-Digest"] == f"sha-256=:{digest}:"
    assert api.get(f"/v1/jobs/{job['id']}/model?format=keras").content == b"a part"
    assert [one["path"] for one in api.get(f"/v1/jobs/{job['id']}/artifacts").json()["data"]] == [
        "bundle.tar.gz", "keras.tar.gz",
    ]  # fmt: skip
