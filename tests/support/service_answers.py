"""Answers of a service, for the client's tests."""

import hashlib
import json
from base64 import b64encode
from typing import Any

import httpx

SPEC: dict[str, Any] = {
    "data": {"source": "digits", "pipeline": [{"op": "batch", "batch_size": 32}]},
    "model": {"component": "mlp", "config": {"hidden": [8], "outputs": 10}},
    "optimizer": "keras/Adam",
    "loss": "focal",
}
AT = "2026-01-02T03:04:05Z"


def job(state: str = "queued", *, revision: int = 1, **fields: Any) -> dict[str, Any]:
    """A job object."""
    return {
        "id": "job_1", "revision": revision, "spec": SPEC, "state": state, "max_attempts": 3,
        "created_at": AT, "queued_at": AT, **fields,
    }  # fmt: skip


def event(seq: int, type: str = "note", **data: Any) -> dict[str, Any]:
    """An event."""
    return {"seq": seq, "at": AT, "attempt": 1, "type": type, "data": data}


def stream(*events: dict[str, Any], keep_alive: bool = True) -> bytes:
    """Server-sent events, a keep-alive between them."""
    between = ": ping\n\n" if keep_alive else ""
    return "".join(f"id: {e['seq']}\ndata: {json.dumps(e)}\n\n{between}" for e in events).encode()


def problem(status: int, code: str, *, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    """A problem document."""
    return httpx.Response(
        status, json={"code": code, "detail": f"about {code}", "status": status, **fields}, headers=headers
    )


def file(content: bytes, *, start: int = 0, digest_of: bytes | None = None, **headers: str) -> httpx.Response:
    """A file from `start` on, with its digest."""
    digest = b64encode(hashlib.sha256(content if digest_of is None else digest_of).digest()).decode()
    return httpx.Response(
        206 if start else 200,
        content=content[start:],
        headers={
            "Repr-Digest": f"sha-256=:{digest}:",
            "ETag": '"one"',
            "Content-Disposition": 'attachment; filename="job_1.tar.gz"',
            **headers,
        },
    )
