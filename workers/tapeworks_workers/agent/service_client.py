"""The worker's link to the service: HTTP, and what to do when it does not answer.

Every call may be sent again: leases have a request id, records an index, uploads a part number, the
finish is the same body again. So a call is repeated, with backoff and jitter, for as long as its
caller waits (it ends by cancelling), unless the service says that it must change. An outage of the
service therefore touches no running job.

`Link` is the worker's, `AttemptLink` one attempt's: it carries the lease token. A 409 `lease_lost`,
or a 404 for the whole attempt, is `LeaseLost`: another attempt owns the job, or nobody does.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import httpx
import structlog
from pydantic import BaseModel
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential
from tenacity.wait import wait_base

from tapeworks.errors import ApiError, Conflict, FailureCode, JobFailure, NotFound, Rejected, Unauthorized, Unavailable
from tapeworks.schemas import worker_protocol
from tapeworks_workers.safe_files import OpenFile

STORE_TRIES = 4
"""A store that is full or cannot be written is asked so often before the attempt fails."""
DEFECT_TRIES = 20
"""A service that answers 500 is there: it will go on doing so, and a job must not wait for it for ever."""
LONGEST_PAUSE = 10.0
"""Seconds between two tries."""
PARTS_AT_ONCE = 2
"""Of a file that is uploaded."""
QUOTA_CODE = "quota_exceeded"
STORE_CODES = {"storage_full": FailureCode.STORAGE_FULL, "storage_unavailable": FailureCode.STORAGE_UNAVAILABLE}

Answer = TypeVar("Answer", bound=BaseModel)
Result = TypeVar("Result")

log = structlog.get_logger(__name__)


class LeaseLost(Exception):
    """The attempt no longer holds its job: stop the runner, publish nothing."""


class StoreRefused(Unavailable):
    """The artifact store is full or away: not waited for as long as the service itself."""


class QuotaExceeded(Rejected):
    """The service stores no more of what the attempt reports."""


class Link:
    """Calls about the worker itself. Close it with `aclose`."""

    def __init__(self, server: str, *, key: str | None, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._http = httpx.AsyncClient(
            base_url=server.rstrip("/"),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(30, read=60),
            transport=transport,
            verify=not server.startswith("http://"),  # what is not encrypted needs no certificates: 2 MiB of them
        )

    async def aclose(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def register(self, worker_id: str, registration: worker_protocol.Registration) -> worker_protocol.Registered:
        """Tell what this worker is. Raises Rejected, Unauthorized."""
        answer = await self.call("PUT", f"/v1/worker/{worker_id}", body=registration)
        return worker_protocol.Registered.model_validate_json(answer.content)

    async def lease(self, request: worker_protocol.LeaseRequest) -> worker_protocol.Lease | None:
        """Wait for a job; None when none fits in time. Raises NotFound where the worker is not known."""
        answer = await self.call("POST", "/v1/worker/leases", body=request, wait=request.wait_seconds)
        return worker_protocol.Lease.model_validate_json(answer.content) if answer.status_code == 200 else None

    def attempt(self, lease: worker_protocol.Lease) -> AttemptLink:
        """The calls of one attempt."""
        return AttemptLink(self, lease)

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: BaseModel | None = None,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
        wait: float = 0,
        pause: float = LONGEST_PAUSE,
    ) -> httpx.Response:
        """Send a request until it is answered, for ever where the service is away.

        Raises ApiError's classes for what must change; StoreRefused after some tries where the store is at fault,
        Unavailable after more where the service has a defect.
        """
        sent = {**(headers or {})}
        if body is not None:
            content = body.model_dump_json(by_alias=True).encode()
            sent["Content-Type"] = "application/json"

        async def once() -> httpx.Response:
            try:
                timeout = httpx.Timeout(30, read=60 + wait)
                answer = await self._http.request(method, path, content=content, headers=sent, timeout=timeout)
            except httpx.TransportError as error:
                raise Unavailable(0, "unavailable", f"{type(error).__name__}: {error}") from error
            if answer.is_error:
                raise refusal(answer)
            return answer

        return await persist(once, what=f"{method} {path}", pause=pause)

    def stream(self, path: str, headers: dict[str, str]) -> Any:
        """An open download, as httpx gives it."""
        return self._http.stream("GET", path, headers=headers)


async def persist(once: Callable[[], Awaitable[Result]], *, what: str, pause: float = LONGEST_PAUSE) -> Result:
    """Repeat a call that may be sent again while its refusal is `Unavailable`; at most `pause` seconds apart."""
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(Unavailable),
        wait=_Backoff(pause),
        stop=_give_up,
        reraise=True,
        before_sleep=lambda state: _tell(what, state),
    )
    return await retrying(once)


def _give_up(state: RetryCallState) -> bool:
    """Endless for a service that is away; few tries for a store that refuses, some for a defect."""
    error = state.outcome.exception() if state.outcome is not None else None
    if isinstance(error, StoreRefused):
        return state.attempt_number >= STORE_TRIES
    return isinstance(error, Unavailable) and error.status == 500 and state.attempt_number >= DEFECT_TRIES


class _Backoff(wait_base):
    """Longer and longer pauses, drawn at random; the first one not before the service asked to be tried again."""

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._drawn = wait_random_exponential(multiplier=0.25, max=longest)

    def __call__(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        asked = error.problem.get("retry_after", 0) if isinstance(error, ApiError) else 0
        drawn = self._drawn(state)
        return float(min(self._longest, asked + drawn) if state.attempt_number == 1 else drawn)


def _tell(what: str, state: RetryCallState) -> None:
    if state.attempt_number in (1, 10) or state.attempt_number % 100 == 0:
        error = state.outcome.exception() if state.outcome is not None else None
        log.warning("a call to the service failed; retrying", call=what, error=str(error))


def refusal(answer: httpx.Response) -> ApiError:
    """A problem document as an exception; `problem["retry_after"]` in seconds where the service named it."""
    try:
        problem = answer.json()
    except ValueError:
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    status, code = answer.status_code, str(problem.get("code", "unknown"))
    after = answer.headers.get("Retry-After", "")
    if after.isdigit():
        problem["retry_after"] = float(after)
    detail = str(problem.get("detail") or problem.get("title") or answer.reason_phrase)
    if code in STORE_CODES:
        return StoreRefused(status, code, detail, problem)
    if code == QUOTA_CODE:
        return QuotaExceeded(status, code, detail, problem)
    if status in (408, 425, 429) or status >= 500:
        return Unavailable(status, code, detail, problem)
    kind = {401: Unauthorized, 403: Unauthorized, 404: NotFound, 409: Conflict}.get(status, Rejected)
    return kind(status, code, detail, problem)


# ── one attempt ──────────────────────────────────────────────────────────────────────────────────


class AttemptLink:
    """Calls about one attempt. Each raises LeaseLost when another one owns the job."""

    def __init__(self, link: Link, lease: worker_protocol.Lease) -> None:
        self._link = link
        self._lease = lease
        self._path = f"/v1/jobs/{lease.job_id}/attempts/{lease.attempt}"
        self._headers = {worker_protocol.LEASE_HEADER: lease.token}

    async def heartbeat(
        self, heartbeat: worker_protocol.Heartbeat, *, pause: float = LONGEST_PAUSE
    ) -> worker_protocol.HeartbeatAnswer:
        """Extend the lease; tried again every `pause` seconds at the latest, or it would be reaped after an outage."""
        answer = await self._call("POST", f"{self._path}/heartbeat", body=heartbeat, pause=pause)
        return worker_protocol.HeartbeatAnswer.model_validate_json(answer.content)

    async def command(self, wait: float) -> worker_protocol.Command | None:
        """What the user asks for; None when nothing in `wait` seconds."""
        answer = await self._call("GET", f"{self._path}/commands?wait={wait:g}", wait=wait)
        return worker_protocol.Command.model_validate_json(answer.content) if answer.status_code == 200 else None

    async def records(self, records: worker_protocol.Records) -> int:
        """Store a batch; the index of the last record that is stored. Raises Rejected."""
        answer = await self._call("POST", f"{self._path}/records", body=records)
        return worker_protocol.RecordsAnswer.model_validate_json(answer.content).stored

    async def announce(self, announcement: worker_protocol.CheckpointAnnouncement) -> str:
        """Make an uploaded checkpoint visible; its id."""
        answer = await self._call("POST", f"{self._path}/checkpoints", body=announcement)
        return worker_protocol.CheckpointAnnounced.model_validate_json(answer.content).checkpoint_id

    async def finish(self, finish: worker_protocol.Finish) -> None:
        """End the attempt. Raises Rejected where what it publishes cannot be taken."""
        await self._call("POST", f"{self._path}/finish", body=finish)

    async def upload(self, file: OpenFile, path: str) -> worker_protocol.ManifestFile:
        """Upload a file by parts, beginning again at the parts that are missing.

        Raises JobFailure `storage_full` or `storage_unavailable` where the store goes on refusing, Rejected.
        """
        try:
            digest = await asyncio.to_thread(file.sha256)
            request = worker_protocol.UploadRequest(
                bytes=file.size, sha256=digest, job_id=self._lease.job_id, attempt=self._lease.attempt, path=path
            )
            upload = await self._upload(await self._call("POST", "/v1/uploads", body=request))
            await self._parts(upload, file)
            if not upload.completed:
                await self._call("POST", f"/v1/uploads/{upload.id}/complete")
        except StoreRefused as error:
            raise JobFailure(STORE_CODES[error.code], f"{path} could not be stored: {error.detail}") from error
        return worker_protocol.ManifestFile(path=path, bytes=file.size, sha256=digest, upload_id=upload.id)

    async def _upload(self, answer: httpx.Response) -> worker_protocol.Upload:
        return worker_protocol.Upload.model_validate_json(answer.content)

    async def _parts(self, upload: worker_protocol.Upload, file: OpenFile) -> None:
        """Send what is missing: one part is read and digested while another is on its way."""
        missing = iter(upload.missing)

        async def some() -> None:
            for part in missing:
                await self._part(upload, part, file)

        senders = [asyncio.create_task(some()) for _ in range(PARTS_AT_ONCE)]
        try:
            await asyncio.gather(*senders)
        finally:
            for sender in senders:
                sender.cancel()

    async def _part(self, upload: worker_protocol.Upload, part: int, file: OpenFile) -> None:
        content = await asyncio.to_thread(file.read, (part - 1) * upload.part_bytes, upload.part_bytes)
        digest = base64.b64encode(await asyncio.to_thread(lambda: hashlib.sha256(content).digest())).decode()
        headers = {"Content-Digest": f"sha-256=:{digest}:", "Content-Type": "application/octet-stream"}
        await self._call("PUT", f"/v1/uploads/{upload.id}/parts/{part}", content=content, headers=headers)

    async def download(self, what: str, sha256: str, descriptor: int) -> bool:
        """Write the bytes of `checkpoints/ID` or `inputs/INDEX` to an open file; whether they have that digest.

        Raises NotFound; StoreRefused where the store goes on refusing.
        """

        async def once() -> bool:
            os.ftruncate(descriptor, 0)
            digest, written = hashlib.sha256(), 0
            async for chunk in self._bytes(what):
                digest.update(chunk)
                await asyncio.to_thread(os.pwrite, descriptor, chunk, written)
                written += len(chunk)
            return digest.hexdigest() == sha256

        return await persist(once, what=f"GET {what}")

    async def _bytes(self, what: str) -> AsyncIterator[bytes]:
        try:
            async with self._link.stream(f"{self._path}/{what}", self._headers) as answer:
                if answer.is_error:
                    await answer.aread()
                    raise _lost_or(refusal(answer))
                async for chunk in answer.aiter_bytes(1 << 20):
                    yield chunk
        except httpx.TransportError as error:
            raise Unavailable(0, "unavailable", f"{type(error).__name__}: {error}") from error

    async def _call(self, method: str, path: str, **sent: Any) -> httpx.Response:
        headers = {**self._headers, **sent.pop("headers", {})}
        try:
            return await self._link.call(method, path, headers=headers, **sent)
        except NotFound as error:
            if path.startswith(self._path):
                raise LeaseLost(error.detail) from error  # the job was deleted
            raise
        except Conflict as error:
            raise _lost_or(error) from error


def _lost_or(error: ApiError) -> Exception:
    return LeaseLost(error.detail) if error.code == "lease_lost" else error


def canonical_digest(document: Any) -> str:
    """The sha-256 of a document's canonical JSON: sorted keys, no spaces."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
