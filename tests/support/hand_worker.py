"""A worker played by hand: the calls of `tapeworks.schemas.worker_protocol`, without any training."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import time
from typing import Any

import httpx

from tapeworks.schemas.worker_protocol import LEASE_HEADER

_requests = itertools.count(1)
_D = {"digest": "0" * 64}


def _schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


ROLES = {
    "models": ["model"], "optimizers": {"model": ["model"]}, "losses": ["model"], "optional_losses": ["model"],
    "frozen": [], "validation_step": True,
}  # fmt: skip
REFERENCE = {"type": "object", "required": ["component"]}
BRANCH = {"type": "object", "x-branch": True}
COMPONENTS: list[dict[str, Any]] = [
    {"kind": "source", "name": "digits", "config_schema": _schema(), "batched": False, **_D},
    {"kind": "source", "name": "ready_batches", "config_schema": _schema(), "batched": True, **_D},
    {"kind": "source", "name": "rows", "batched": False, **_D, "config_schema": _schema(
        files={"x-files": True}, labels={"default": None}, weight={"default": None}, named={"default": False})},
    {"kind": "source", "name": "zip", "batched": False, **_D, "config_schema": _schema(
        sources={"type": "object", "additionalProperties": BRANCH}, stop={"enum": ["shortest", "longest"]})},
    {"kind": "source", "name": "concatenate", "batched": False, **_D,
     "config_schema": _schema(sources={"type": "array", "items": BRANCH})},
    {"kind": "dataset_function", "name": "batches", "config_schema": _schema(), "batched": True, **_D},
    {
        "kind": "model", "name": "mlp", **_D,
        "config_schema": {
            **_schema(
                hidden={"type": "array", "items": {"type": "integer"}},
                outputs={"type": "integer"},
                kernel_regularizer={"anyOf": [{**REFERENCE, "x-kind": "regularizer"}, {"type": "null"}]},
            ),
            "required": ["outputs"],
        },
    },
    {"kind": "model", "name": "sequential", **_D,
     "config_schema": _schema(layers={"type": "array", "items": {**REFERENCE, "x-kind": "layer"}})},
    {"kind": "model", "name": "pretrained", "config_schema": {**_schema(role={"type": "string"},
     **{"from": {"type": "string"}}), "required": ["from"]}, **_D},
    {"kind": "layer", "name": "keras/Dense", "config_schema": _schema(units={"type": "integer"},
     kernel_regularizer={}), **_D},
    {"kind": "regularizer", "name": "keras/L2", "config_schema": _schema(l2={"type": "number"}), **_D},
    {"kind": "optimizer", "name": "keras/Adam", "config_schema": _schema(learning_rate={}), **_D},
    {"kind": "schedule", "name": "keras/CosineDecay", "config_schema": _schema(decay_steps={"type": "integer"}), **_D},
    {"kind": "loss", "name": "focal", "config_schema": _schema(gamma={"type": "number"}), **_D},
    {"kind": "loss", "name": "focal", "version": "2", "config_schema": _schema(gamma={"type": "number"}), **_D},
    {"kind": "loss", "name": "keras/Hinge", "config_schema": _schema(), **_D},
    {"kind": "metric", "name": "keras/Hinge", "config_schema": _schema(), **_D},
    {"kind": "metric", "name": "keras/SparseCategoricalAccuracy", "config_schema": _schema(), **_D},
    {"kind": "metric", "name": "acme/dice", "config_schema": _schema(), "undirected": "dice", **_D},
    {"kind": "callback", "name": "reduce_learning_rate",
     "config_schema": _schema(monitor={"type": "string"}, mode={"enum": ["auto", "min", "max"]}), **_D},
    {"kind": "gradient_transform", "name": "clip_by_global_norm",
     "config_schema": _schema(max_norm={"type": "number"}), **_D},
    {"kind": "transform", "name": "scale", "config_schema": _schema(factor={"type": "number"}), **_D},
    {"kind": "step", "name": "supervised", "config_schema": _schema(), "roles": ROLES, **_D},
    {"kind": "step", "name": "gan", "config_schema": _schema(), **_D, "roles": {
        "models": ["generator", "critic"], "optimizers": {"generator": ["generator"], "critic": ["critic"]},
        "losses": ["adversarial"], "frozen": [], "validation_step": False}},
]  # fmt: skip
SPEC: dict[str, Any] = {
    "data": {"source": "digits", "validation": 0.2, "pipeline": [{"op": "batch", "batch_size": 32}]},
    "model": {"component": "mlp", "config": {"hidden": [64], "outputs": 10}},
    "optimizer": "keras/Adam",
    "loss": {"component": "focal", "config": {"gamma": 2.0}},
    "metrics": ["keras/SparseCategoricalAccuracy"],
    "training": {"epochs": 5},
}


def spec(**changes: Any) -> dict[str, Any]:
    """The smallest job, changed."""
    return {**SPEC, **changes}


def sha(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


class HandLease:
    """One attempt: its calls, with its token."""

    def __init__(self, client: httpx.Client, lease: dict[str, Any]) -> None:
        self.client = client
        self.lease = lease
        self.job_id: str = lease["job_id"]
        self.attempt: int = lease["attempt"]
        self.headers = {LEASE_HEADER: lease["token"]}
        self.path = f"/v1/jobs/{self.job_id}/attempts/{self.attempt}"
        self.index = 0

    def post(self, call: str, body: Any) -> httpx.Response:
        return self.client.post(f"{self.path}/{call}", json=body, headers=self.headers)

    def heartbeat(self) -> httpx.Response:
        return self.post("heartbeat", {})

    def progress(self, **progress: Any) -> httpx.Response:
        return self.records({"record": "facts", "progress": progress})

    def records(self, *records: dict[str, Any]) -> httpx.Response:
        """Send records, numbered on from the last ones."""
        numbered = []
        for record in records:
            self.index += 1
            numbered.append({"index": self.index, **record})
        return self.post("records", {"records": numbered})

    def state(self, state: str, phase: str | None = None) -> httpx.Response:
        return self.records({"record": "state", "state": state, "phase": phase})

    def upload(self, path: str, data: bytes, *, part_bytes: int = 8 * 1024 * 1024) -> dict[str, Any]:
        """A whole upload; gives the manifest entry."""
        begun = self.begin(path, data).json()
        for number in begun["missing"]:
            part = data[(number - 1) * begun["part_bytes"] : number * begun["part_bytes"]]
            assert self.part(begun["id"], number, part).status_code == 204
        completed = self.complete(begun["id"])
        assert completed.status_code == 200, completed.text
        assert completed.json()["completed"]
        return {"path": path, "bytes": len(data), "sha256": sha(data), "upload_id": begun["id"]}

    def begin(self, path: str, data: bytes) -> httpx.Response:
        body = {"bytes": len(data), "sha256": sha(data), "job_id": self.job_id, "attempt": self.attempt, "path": path}
        return self.client.post("/v1/uploads", json=body, headers=self.headers)

    def part(self, upload_id: str, number: int, data: bytes, *, digest: str | None = None) -> httpx.Response:
        encoded = base64.b64encode(bytes.fromhex(digest or sha(data))).decode()
        headers = {**self.headers, "Content-Digest": f"sha-256=:{encoded}:"}
        return self.client.put(f"/v1/uploads/{upload_id}/parts/{number}", content=data, headers=headers)

    def complete(self, upload_id: str) -> httpx.Response:
        return self.client.post(f"/v1/uploads/{upload_id}/complete", headers=self.headers)

    def finish(self, outcome: str, **body: Any) -> httpx.Response:
        return self.post("finish", {"outcome": outcome, "last_record": self.index, **body})

    def checkpoint(self, data: bytes, *, step: int) -> str:
        """Upload and announce a checkpoint; gives its id."""
        upload = self.upload(f"checkpoints/{step}.tar", data)
        told = self.post("checkpoints", {"upload_id": upload["upload_id"], "step": step, "epoch": 0})
        assert told.status_code == 201, told.text
        return str(told.json()["checkpoint_id"])

    def succeed(self, bundle: bytes | None = None) -> None:
        """End well, with that bundle."""
        published = {} if bundle is None else {"bundle": self.upload("bundle.tar.gz", bundle), "formats": ["keras"]}
        told = self.finish("succeeded", published=published)
        assert told.status_code == 200, told.text

    def fail(self, code: str, *, retryable: bool = False) -> httpx.Response:
        failure = {"code": code, "message": f"made to fail with {code}", "retryable": retryable}
        return self.finish("failed", failure=failure)


class HandWorker:
    """A worker with one CPU slot."""

    def __init__(self, client: httpx.Client, worker_id: str = "hand") -> None:
        self.client = client
        self.id = worker_id

    def register(
        self, components: list[dict[str, Any]] | None = None, *, catalogue_extra: Any = None, **changes: Any
    ) -> dict[str, Any]:
        catalogue = {"components": COMPONENTS if components is None else components, **(catalogue_extra or {})}
        digest = sha(json.dumps(catalogue, sort_keys=True).encode())
        body = {
            "devices": [{"id": "cpu0", "kind": "cpu"}], "cpus": 4, "memory_bytes": 8 * 1024**3,
            "catalogue_digest": digest, **changes,
        }  # fmt: skip
        answer = self.client.put(f"/v1/worker/{self.id}", json=body).json()
        if answer["catalogue_needed"]:
            answer = self.client.put(f"/v1/worker/{self.id}", json={**body, "catalogue": catalogue}).json()
        assert not answer["catalogue_needed"]
        return answer

    def ask(self, *, wait: float = 0, request_id: str | None = None, **free: Any) -> httpx.Response:
        body = {
            "worker_id": self.id, "request_id": request_id or f"request-{next(_requests)}", "wait_seconds": wait,
            "free_cpus": 4, **free,
        }  # fmt: skip
        return self.client.post("/v1/worker/leases", json=body)

    def lease(self, *, wait: float = 0, **free: Any) -> HandLease:
        """A lease within so many seconds; the service may hold a request for less."""
        end = time.monotonic() + wait
        while (answer := self.ask(wait=wait, **free)).status_code == 204 and time.monotonic() < end:
            continue
        assert answer.status_code == 200, answer.text
        return HandLease(self.client, answer.json())

    def submit(self, document: dict[str, Any] | None = None, **headers: str) -> dict[str, Any]:
        answer = self.client.post("/v1/jobs", json=SPEC if document is None else document, headers=headers)
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    def job(self, job_id: str) -> dict[str, Any]:
        return self.client.get(f"/v1/jobs/{job_id}").json()

    def job_ids(self) -> list[str]:
        return [job["id"] for job in self.client.get("/v1/jobs").json()["data"]]

    def empty_queue(self, *kinds: str) -> None:
        """Cancel the unfinished jobs of these kinds; without any, those that a user submits."""
        unfinished = ("queued", "paused", "starting", "running", "exporting", "verifying")
        for kind in kinds or ("train", "validate"):
            listed = self.client.get("/v1/jobs", params={"kind": kind, "state": unfinished, "limit": 200})
            for job in listed.json()["data"]:
                self.client.post(f"/v1/jobs/{job['id']}/cancel")


def all_calls(lease: HandLease) -> list[httpx.Response]:
    """Every call about an attempt."""
    return [
        lease.heartbeat(),
        lease.client.get(f"{lease.path}/commands?wait=0", headers=lease.headers),
        lease.records({"record": "log", "stream": "stdout", "text": "zombie"}),
        lease.begin("zombie.bin", b"zombie"),
        lease.post("checkpoints", {"upload_id": "up_0", "step": 1, "epoch": 0}),
        lease.client.get(f"{lease.path}/checkpoints/ckpt_0", headers=lease.headers),
        lease.post("finish", {"outcome": "succeeded"}),
        lease.post("finish", {"outcome": "failed", "failure": {"code": "internal", "message": "x"}}),
    ]
