"""The link to a real service: registration, leases, uploads by parts, checkpoints, a lost lease, an absent service."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tapeworks.errors import FailureCode, JobFailure, NotFound, Rejected, Unauthorized
from tapeworks.schemas import worker_protocol
from tapeworks.schemas.jobs import ComponentEntry, Device
from tapeworks_workers.agent.service_client import AttemptLink, LeaseLost, Link, canonical_digest
from tapeworks_workers.safe_files import open_beneath

SPEC = {
    "data": {"source": "rows", "pipeline": [{"op": "batch", "batch_size": 2}]},
    "model": "net",
    "export": None,
    "training": {"checkpoint": {"keep": 3}},
}


def entry(kind: str, name: str, **more: Any) -> ComponentEntry:
    schema: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
    return ComponentEntry.model_validate(
        {"kind": kind, "name": name, "digest": "0" * 64, "config_schema": schema, **more}
    )


STEP = {"models": ["model"], "optimizers": {}, "losses": [], "frozen": [], "validation_step": False}
CATALOGUE = worker_protocol.Catalogue(
    components=[entry("source", "rows"), entry("model", "net"), entry("step", "supervised", roles=STEP)]
)
REGISTRATION = worker_protocol.Registration(
    devices=[Device(id="cpu0", kind="cpu")],
    versions={"tapeworks": "0"},
    catalogue_digest=canonical_digest(CATALOGUE.model_dump(mode="json")),
)


@pytest.fixture
def service(patient_service: Any) -> Any:
    """Nobody sends heartbeats here."""
    return patient_service


@asynccontextmanager
async def linked(service: Any, transport: httpx.AsyncBaseTransport | None = None) -> AsyncIterator[Link]:
    link = Link(service.url, key=None, transport=transport)
    try:
        yield link
    finally:
        await link.aclose()


async def register(link: Link, worker: str) -> None:
    registered = await link.register(worker, REGISTRATION)
    if registered.catalogue_needed:
        registered = await link.register(worker, REGISTRATION.model_copy(update={"catalogue": CATALOGUE}))
    assert not registered.catalogue_needed


def request(worker: str, request_id: str, wait: float = 5) -> worker_protocol.LeaseRequest:
    return worker_protocol.LeaseRequest(worker_id=worker, request_id=request_id, wait_seconds=wait, free_cpus=4)


@asynccontextmanager
async def leased(service: Any, worker: str) -> AsyncIterator[tuple[worker_protocol.Lease, AttemptLink]]:
    """A job in our hands; whatever became of it, it is no longer queued at the end."""
    async with linked(service) as link:
        await register(link, worker)
        job_id = service.submit(SPEC)
        lease = await link.lease(request(worker, f"{worker}-1"))
        assert lease is not None
        assert lease.job_id == job_id
        try:
            yield lease, link.attempt(lease)
        finally:
            service.api.post(f"/v1/jobs/{job_id}/cancel")


def test_a_request_that_is_sent_again_gives_the_same_lease(service: Any) -> None:
    async def scene() -> None:
        async with leased(service, "again") as (lease, attempt), linked(service) as link:
            same = await link.lease(request("again", "again-1"))
            assert same is not None
            assert (same.job_id, same.attempt, same.token) == (lease.job_id, lease.attempt, lease.token)
            assert await link.lease(request("again", "again-2", wait=0)) is None
            answer = await attempt.heartbeat(worker_protocol.Heartbeat())
            assert answer.lease_seconds > 0
            await attempt.finish(worker_protocol.Finish(outcome="cancelled"))

    asyncio.run(scene())


def test_an_unknown_worker_is_told_apart(service: Any) -> None:
    async def scene() -> None:
        async with linked(service) as link:
            with pytest.raises(NotFound):
                await link.lease(request("nobody", "x", wait=0))

    asyncio.run(scene())


def test_a_file_goes_up_in_parts_and_comes_down_as_a_checkpoint(service: Any, tmp_path: Path) -> None:
    content = os.urandom(worker_protocol.PART_BYTES * 2 + 12_345)
    (tmp_path / "state.tar").write_bytes(content)
    (tmp_path / "empty").write_bytes(b"")

    async def scene() -> None:
        async with leased(service, "parts") as (_, attempt):
            with open_beneath(tmp_path, "state.tar") as file:
                uploaded = await attempt.upload(file, "checkpoints/state.tar")
            assert (uploaded.bytes, uploaded.sha256) == (len(content), hashlib.sha256(content).hexdigest())
            with open_beneath(tmp_path, "empty") as file:
                assert (await attempt.upload(file, "empty")).bytes == 0
            announced = worker_protocol.CheckpointAnnouncement(upload_id=uploaded.upload_id, step=7, epoch=1)
            checkpoint_id = await attempt.announce(announced)
            assert await attempt.announce(announced) == checkpoint_id

            resume = worker_protocol.ResumeFrom(
                checkpoint_id=checkpoint_id, step=7, epoch=1, bytes=len(content), sha256=uploaded.sha256
            )
            assert await downloaded(attempt, resume, tmp_path / "back.tar") is True
            assert (tmp_path / "back.tar").read_bytes() == content
            other = resume.model_copy(update={"sha256": "0" * 64})
            assert await downloaded(attempt, other, tmp_path / "back.tar") is False
            with pytest.raises(NotFound):
                await downloaded(attempt, resume.model_copy(update={"checkpoint_id": "ckpt_none"}), tmp_path / "none")
            await attempt.finish(worker_protocol.Finish(outcome="cancelled"))

    asyncio.run(scene())


async def downloaded(attempt: AttemptLink, checkpoint: worker_protocol.ResumeFrom, path: Path) -> bool:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        return await attempt.download(f"checkpoints/{checkpoint.checkpoint_id}", checkpoint.sha256, descriptor)
    finally:
        os.close(descriptor)


def test_records_sent_again_are_stored_once(service: Any) -> None:
    lines = [worker_protocol.LogRecord(index=n, stream="stdout", text=f"line {n}") for n in (1, 2, 3)]

    async def scene() -> str:
        async with leased(service, "records") as (lease, attempt):
            assert await attempt.records(worker_protocol.Records(records=lines[:2])) == 2
            assert await attempt.records(worker_protocol.Records(records=lines)) == 3
            await attempt.finish(worker_protocol.Finish(outcome="cancelled", last_record=3))
            return lease.job_id

    job_id = asyncio.run(scene())
    assert [line["text"] for line in service.data(f"/v1/jobs/{job_id}/logs")] == ["line 1", "line 2", "line 3"]


def test_a_finish_is_taken_once_and_then_the_lease_is_lost(service: Any) -> None:
    async def scene() -> None:
        async with leased(service, "finish") as (lease, attempt):
            await attempt.finish(worker_protocol.Finish(outcome="cancelled"))
            await attempt.finish(worker_protocol.Finish(outcome="cancelled"))
            for call in (
                attempt.heartbeat(worker_protocol.Heartbeat()),
                attempt.command(0),
                attempt.finish(worker_protocol.Finish(outcome="released")),
            ):
                with pytest.raises(LeaseLost):
                    await call
            forged = AttemptLink(attempt._link, lease.model_copy(update={"token": "x" * 40}))
            with pytest.raises(LeaseLost):
                await forged.heartbeat(worker_protocol.Heartbeat())

    asyncio.run(scene())


def test_a_command_comes_as_soon_as_it_is_asked_for(service: Any) -> None:
    async def scene() -> None:
        async with leased(service, "commands") as (lease, attempt):
            waiting = asyncio.create_task(attempt.command(20))
            await asyncio.to_thread(service.api.post, f"/v1/jobs/{lease.job_id}/cancel")
            command = await waiting
            assert command is not None
            assert command.command == "cancel"
            await attempt.finish(worker_protocol.Finish(outcome="cancelled"))

    asyncio.run(scene())


# ── a service that is not there, or says no ──────────────────────────────────────────────────────


class Unsteady(httpx.AsyncBaseTransport):
    """Fails as told, then passes on to the network."""

    def __init__(self, *failures: Callable[[httpx.Request], httpx.Response]) -> None:
        self.failures = list(failures)
        self.inner = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.failures:
            return self.failures.pop(0)(request)
        return await self.inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self.inner.aclose()


def refuse_connection(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


def problem(status: int, code: str, **headers: str) -> Callable[[httpx.Request], httpx.Response]:
    return lambda request: httpx.Response(status, json={"code": code, "detail": "as told"}, headers=headers)


def test_calls_are_sent_again_until_they_are_answered(service: Any) -> None:
    transport = Unsteady(
        refuse_connection, problem(503, "unavailable"), lambda request: httpx.Response(502, text="<html>bad gateway")
    )

    async def scene() -> None:
        async with linked(service, transport) as link:
            await register(link, "unsteady")

    asyncio.run(scene())
    assert transport.failures == []


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (problem(401, "unauthenticated"), Unauthorized),
        (problem(403, "forbidden"), Unauthorized),
        (problem(422, "invalid_request"), Rejected),
        (problem(413, "payload_too_large"), Rejected),
    ],
)
def test_what_must_change_is_not_sent_again(service: Any, answer: Any, expected: type[Exception]) -> None:
    async def scene() -> None:
        async with linked(service, Unsteady(answer)) as link:
            with pytest.raises(expected):
                await link.register("refused", REGISTRATION)

    asyncio.run(scene())


def test_a_full_store_fails_the_attempt_after_some_tries(service: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")

    async def scene() -> None:
        async with leased(service, "full") as (lease, attempt):
            full = Unsteady(*[problem(507, "storage_full")] * 50)
            async with linked(service, full) as link:
                with open_beneath(tmp_path, "file") as file, pytest.raises(JobFailure) as failed:
                    await link.attempt(lease).upload(file, "file")
            assert failed.value.code is FailureCode.STORAGE_FULL
            assert failed.value.retryable
            await attempt.finish(worker_protocol.Finish(outcome="cancelled"))

    asyncio.run(scene())
