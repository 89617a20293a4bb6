"""Uploads from here: a file goes up in parts, each with its digest, and is resumed at the parts that are missing.

Two parts are on their way at once: one is read and digested while the other is sent. What was sent before, in this
call or by another, is not sent again: an upload is known by its digest.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from tapeworks.client.connection import Connection, body, decoded
from tapeworks.client.payloads import Payload, sha256
from tapeworks.schemas.worker_protocol import Upload

Progress = Callable[[int, int], object]
"""Called with the bytes sent so far, and with their total."""
AT_ONCE = 2
PATIENCE = 60.0
"""Seconds for which a part is sent again while the service is away."""


def upload(connection: Connection, payload: Payload, progress: Progress = lambda done, total: None) -> Upload:
    """Send a file to the project; the completed upload. Raises `ApiError`, OSError."""
    request = body({"bytes": payload.size, "sha256": sha256(payload)})
    answer = connection.request("POST", "/v1/uploads", content=request, repeatable=True, patience=PATIENCE)
    begun = decoded(Upload, answer)
    if begun.completed:
        progress(payload.size, payload.size)
        return begun
    done = payload.size - sum(_length(begun, part) for part in begun.missing)
    progress(done, payload.size)
    with ThreadPoolExecutor(AT_ONCE, "upload") as pool:
        waiting = list(reversed(begun.missing))
        sending: set[Future[int]] = set()
        try:
            while waiting or sending:
                while waiting and len(sending) < AT_ONCE:
                    sending.add(pool.submit(_send, connection, begun, waiting.pop(), payload))
                ended, sending = wait(sending, return_when=FIRST_COMPLETED)
                done += sum(one.result() for one in ended)
                progress(done, payload.size)
        except BaseException:
            for one in sending:
                one.cancel()
            raise
    path = f"/v1/uploads/{begun.id}/complete"
    return decoded(Upload, connection.request("POST", path, repeatable=True, patience=PATIENCE, wait=600))


def _length(begun: Upload, part: int) -> int:
    return min(begun.part_bytes, begun.bytes - (part - 1) * begun.part_bytes)


def _send(connection: Connection, begun: Upload, part: int, payload: Payload) -> int:
    content = payload.read((part - 1) * begun.part_bytes, _length(begun, part))
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    headers = {"Content-Digest": f"sha-256=:{digest}:", "Content-Type": "application/octet-stream"}
    path = f"/v1/uploads/{begun.id}/parts/{part}"
    connection.request("PUT", path, content=content, headers=headers, repeatable=True, patience=PATIENCE)
    return len(content)
