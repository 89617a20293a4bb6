"""An example for every operation of the served OpenAPI document: `ANSWERS` and `BODIES`, by operationId."""

from __future__ import annotations

from typing import Any

from tapeworks.spec.parsing import parse_spec
from tapeworks_service.api.jobs.examples import SPEC

_AT = "2026-01-02T03:04:05.678Z"
_JOB_ID = "job_019b7c3e5d1a7c2e8f4b6a9d0c1e2f3a"
_SOURCE_ID = "job_019b7c3e5d1a7c2e8f4b6a9d0c1e2f39"
_SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_CANONICAL = parse_spec(SPEC).document()


def _page(*data: Any) -> dict[str, Any]:
    return {"data": list(data), "has_more": False, "next": None}


def _job(state: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": _JOB_ID, "object": "job", "kind": "train", "revision": 1, "name": None, "labels": {}, "priority": 0,
        "spec": _CANONICAL, "state": state, "requested": "none", "attempt": 0, "failed_attempts": 0, "max_attempts": 3,
        "transitions": [{"state": "queued", "phase": None, "attempt": 0, "at": _AT, "message": None}],
        "progress": {"step": 0, "epoch": 0, "epochs": 5}, "created_at": _AT, "queued_at": _AT, **fields,
    }  # fmt: skip


_QUEUED = _job("queued")
_RUNNING = _job(
    "running", revision=7, attempt=1, phase="training", worker="machine-3fa2c1", started_at=_AT,
    progress={"step": 90, "total_steps": 225, "epoch": 2, "epochs": 5, "examples_per_second": 9800.0, "eta_seconds": 1},
    metrics={"loss": 0.51, "val_loss": 0.37},
)  # fmt: skip
_CANCELLED = _job("cancelled", revision=2, finished_at=_AT)
_EVENT = {"seq": 3, "at": _AT, "attempt": 1, "type": "state", "data": {"state": "running", "phase": "building"}}
_LINE = {"seq": 1, "at": _AT, "attempt": 1, "stream": "stdout", "text": "hello"}
_FILE = {"path": "bundle.tar.gz", "bytes": 220_910, "sha256": _SHA256, "attempt": 1, "created_at": _AT}
_CHECKPOINT = {
    "id": "ckpt_019b7c3e5d1a7c2e8f4b6a9d0c1e2f3b", "step": 225, "epoch": 5, "attempt": 1, "bytes": 71_680,
    "sha256": _SHA256, "metrics": {"loss": 0.23}, "best": False, "created_at": _AT,
}  # fmt: skip
_COMPONENT = {
    "kind": "loss", "name": "focal", "version": "1", "digest": _SHA256, "doc": "Focal loss.",
    "workers": ["machine-3fa2c1"],
    "config_schema": {"type": "object", "properties": {"gamma": {"type": "number", "default": 2.0}}},
}  # fmt: skip
_DEVICE = {"id": "cpu0", "kind": "cpu", "name": "CPU slot"}
_UPLOAD = {
    "id": "up_019b7c3e5d1a7c2e8f4b6a9d0c1e2f3c", "bytes": 9, "sha256": _SHA256, "part_bytes": 8_388_608,
    "parts": 1, "missing": [1], "completed": False,
}  # fmt: skip
_WORKER = {"id": "machine-3fa2c1", "state": "ready", "devices": [_DEVICE], "registered_at": _AT, "heartbeat_at": _AT}

_ASSET = {"name": "flowers", "version": "1", "bytes": 9, "sha256": _SHA256, "job_id": _JOB_ID, "created_at": _AT}
_DATASET = {
    **_ASSET, "id": "ds_019b7c3e5d1a7c2e8f4b6a9d0c1e2f3d", "object": "dataset", "format": "csv", "source": "csv",
    "state": "ready", "content": {
        "rows": 1, "files": 1, "columns": [{"name": "petals", "dtype": "int64", "shape": []}],
        "preview": [{"petals": 5}], "classes": {},
    },
}  # fmt: skip
_PACKAGE = {
    **_ASSET, "id": "pkg_019b7c3e5d1a7c2e8f4b6a9d0c1e2f3e", "object": "package", "name": "acme-losses",
    "version": "1.0.0", "state": "admitted", "requires": [],
    "components": [{"kind": "loss", "name": "acme/Warm", "version": "1.0.0"}],
}  # fmt: skip
_BUNDLE = {**_ASSET, "id": "bundle_019b7c3e5d1a7c2e8f4b6a9d0c1e2f3f", "object": "bundle", "roles": ["model"]}

_SESSION = {
    "object": "session", "keyless": False, "project": "default", "scopes": ["read", "submit"],
    "key_id": "key_019b7c3e5d1a7c2e8f4b6a9d0c1e2f40", "expires_at": _AT,
}  # fmt: skip
_KEY = {
    "id": _SESSION["key_id"], "object": "key", "project": "default", "name": "alice", "scopes": ["read", "submit"],
    "created_at": _AT, "last_used_at": None, "revoked_at": None,
}  # fmt: skip

ANSWERS: dict[str, Any] = {
    "create_job": _QUEUED,
    "list_jobs": _page(_RUNNING),
    "validate_job": {"valid": True, "spec": _CANONICAL, "warnings": []},
    "get_job": _RUNNING,
    "update_job": {**_QUEUED, "revision": 2, "name": "digits again", "priority": 10},
    "cancel_job": _CANCELLED,
    "pause_job": {**_job("paused"), "revision": 4},
    "resume_job": {**_QUEUED, "revision": 5},
    "retry_job": _QUEUED,
    "list_events": _page(_EVENT),
    "list_logs": _page(_LINE),
    "get_metrics": {"data": [{"name": "loss", "points": [[45, 1.586, _AT], [90, 0.51, _AT]]}]},
    "list_artifacts": _page(_FILE),
    "list_checkpoints": _page(_CHECKPOINT),
    "list_components": _page(_COMPONENT),
    "get_component": _COMPONENT,
    "list_workers": _page(_WORKER),
    "drain_worker": {**_WORKER, "state": "draining"},
    "undrain_worker": _WORKER,
    "create_dataset": _DATASET,
    "list_datasets": _page(_DATASET),
    "get_dataset": _DATASET,
    "create_package": {**_PACKAGE, "state": "admitting", "components": []},
    "list_packages": _page(_PACKAGE),
    "get_package": _PACKAGE,
    "create_bundle": _BUNDLE,
    "list_bundles": _page(_BUNDLE),
    "get_bundle": _BUNDLE,
    "create_upload": _UPLOAD,
    "get_upload": _UPLOAD,
    "complete_upload": {**_UPLOAD, "missing": [], "completed": True},
    "register_worker": {"catalogue_needed": False, "heartbeat_seconds": 5, "lease_seconds": 20},
    "lease_job": {
        "job_id": _JOB_ID, "project_id": "default", "kind": "train", "attempt": 1, "token": _SHA256,
        "lease_seconds": 20, "spec": _CANONICAL, "components": [], "resume": [], "timeout_seconds": None, "gpus": 0,
        "inputs": [{"from": _SOURCE_ID, "kind": "bundle", "bytes": 220_910, "sha256": _SHA256}],
    },
    "renew_lease": {"lease_seconds": 20, "command": None},
    "wait_for_command": {"command": "cancel"},
    "store_records": {"stored": 2},
    "announce_checkpoint": {"checkpoint_id": _CHECKPOINT["id"]},
    "finish_attempt": {"state": "succeeded"},
    "get_session": _SESSION,
    "log_in": _SESSION,
    "list_keys": _page(_KEY),
    "create_key": {**_KEY, "key": "tw_…"},
    "revoke_key": {**_KEY, "revoked_at": _AT},
    "get_versions": {
        "tapeworks": "0.1.0", "api": "v1", "python": "3.12.3", "database": "sqlite", "packages": False
    },
    "health": {"status": "ok"},
    "readiness": {"status": "ready", "checks": {"database": "ok", "store": "ok", "catalogue": "ok"}},
}  # fmt: skip

ACCEPTED: dict[str, Any] = {"validate_job": _job("queued", kind="validate", max_attempts=2, priority=10)}
"""Answers with 202."""

STREAMED: dict[str, dict[str, Any]] = {
    "list_events": _EVENT,
    "list_logs": _LINE,
    "get_metrics": {"seq": 1, "attempt": 1, "name": "loss", "step": 45, "value": 1.586, "at": _AT},
}
"""What one server-sent event of an operation holds; its `id` is the entry's `seq`."""

BODIES: dict[str, Any] = {
    "log_in": {"key": "tw_…"},
    "create_key": {"name": "alice", "scopes": ["read", "submit"]},
    "create_upload": {"bytes": 9, "sha256": _SHA256},
    "create_dataset": {"upload_id": _UPLOAD["id"], "name": "flowers", "format": "csv"},
    "create_package": {"upload_id": _UPLOAD["id"]},
    "create_bundle": {"upload_id": _UPLOAD["id"], "name": "flowers-model"},
    "register_worker": {"devices": [_DEVICE], "labels": {"zone": "a"}, "cpus": 2, "catalogue_digest": _SHA256},
    "lease_job": {"worker_id": "machine-3fa2c1", "request_id": "req_1", "wait_seconds": 30, "free_cpus": 2},
    "store_records": {
        "records": [{"record": "metric", "index": 1, "at_offset": 0, "step": 45, "values": {"loss": 1.6}}]
    },
    "announce_checkpoint": {"upload_id": _UPLOAD["id"], "step": 225, "epoch": 5, "metrics": {"loss": 0.23}},
    "finish_attempt": {"outcome": "released", "last_record": 2},
}
