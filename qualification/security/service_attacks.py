"""Requests that once held the service, sent by one project while a worker renews and reports for another's job."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import httpx_sse

from benchmarks.claims import free_port
from qualification.http.bystander import Bystander
from qualification.security.job_beside import key_of_project
from tapeworks_service.auth import keys
from tapeworks_service.settings import ServiceSettings
from tests.service.specs.test_check_budgets import DUPLICATES
from tests.support.hand_worker import COMPONENTS, HandWorker, spec
from tests.support.stepped_clock import SteppedService, stepped_service
from tests.support.uploading import a_package, make

KEY = "tw_" + "operator" * 4
LEASE_SECONDS = 3.0
NUMBER = 10**30
CONNECTIONS = 1024
HEADER = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
DOUBLING: dict[str, Any] = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)} | {
    "d40": {"type": "integer"}
}
STEPS = (1, -1, 60, -60, 3600, -3600)


@dataclass
class Ground:
    """A service, its attacker and its worker."""

    service: SteppedService
    data: Path
    attacker: httpx.Client
    """Of a project of its own."""
    hand: HandWorker
    """The operator's, which takes packages."""

    @property
    def address(self) -> tuple[str, int]:
        """Of the service."""
        url = self.service.client.base_url
        return url.host, url.port or 80

    def statuses(self, answers: list[httpx.Response]) -> str:
        """What was answered. Raises AssertionError for a 5xx."""
        found = [answer.status_code for answer in answers]
        assert max(found) < 500, answers[found.index(max(found))].text
        return ", ".join(map(str, sorted(set(found))))


@dataclass(frozen=True)
class Attack:
    """What is tried. `run` gives what refused it, and raises AssertionError where it got through."""

    tried: str
    run: Callable[[Ground], str]


def _schema(ground: Ground) -> str:
    made = make(ground.attacker, "package", a_package("fan"))
    assert made.status_code == 201, made.text
    lease = ground.hand.lease(wait=10)
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": DOUBLING}
    entry = {"kind": "loss", "name": "fan/Out", "config_schema": schema, "digest": "0" * 64}
    assert lease.finish("succeeded", published={"result": {"components": [entry], "refused": []}}).is_success
    package = ground.attacker.get(f"/v1/packages/{made.json()['id']}").json()
    assert package["state"] == "refused", package
    loss = {"component": "fan/Out", "config": {"a": "x"}}
    told = ground.statuses([ground.attacker.post("/v1/jobs", json=spec(loss=loss))])
    return f"the component is refused: {package['refused'][0]['reason']}; naming it: {told}"


def _posted(body: Any) -> Callable[[Ground], str]:
    def run(ground: Ground) -> str:
        answer = ground.attacker.post("/v1/jobs", json=body)
        assert answer.status_code == 422, answer.text[:300]
        return f"422 {answer.json()['detail'][:100]}"

    return run


def _duplicates(ground: Ground) -> str:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ground.attacker.post("/v1/jobs", content=DUPLICATES), range(8)))
    return ground.statuses(answers)


def _filters(ground: Ground) -> str:
    queries = ["&".join(["label=a:b"] * count) for count in (1_100, 5_000)]
    return ground.statuses([ground.attacker.get(f"/v1/jobs?{query}") for query in queries])


def _numbers(ground: Ground) -> str:
    operations: list[dict[str, Any]] = [
        {"op": "batch", "batch_size": NUMBER}, {"op": "take", "count": NUMBER}, {"op": "skip", "count": NUMBER},
        {"op": "repeat", "count": NUMBER}, {"op": "one_hot", "depth": NUMBER},
    ]  # fmt: skip
    answers = [
        ground.attacker.post("/v1/jobs", json=spec(data={"source": "digits", "pipeline": [one]})) for one in operations
    ]
    assert {answer.status_code for answer in answers} == {422}
    return ground.statuses(answers)


def _nested(ground: Ground) -> str:
    layer = '{"component": "keras/Dense"}'
    for _ in range(2_000):
        layer = f'{{"component": "keras/Dense", "config": {{"kernel_regularizer": {layer}}}}}'
    answers = [
        ground.attacker.post("/v1/jobs", content=layer),
        ground.attacker.post("/v1/jobs", content="[" * 500_000),
        ground.attacker.post("/v1/jobs", content='{"a":' * 200_000),
    ]
    return ground.statuses(answers)


def _endless_header(ground: Ground) -> str:
    sent = 0
    with socket.create_connection(ground.address, timeout=20) as made:
        try:
            made.sendall(HEADER)
            while sent < 64 << 20:
                made.sendall(b"X: " + b"a" * 65_536)
                sent += 65_536
        except OSError as error:
            return f"{error.strerror} after {sent >> 10} KiB"
    raise AssertionError("64 MiB of header were taken")


def _slow_headers(ground: Ground) -> str:
    with ExitStack() as stack:
        for _ in range(CONNECTIONS):
            stack.enter_context(socket.create_connection(ground.address, timeout=20)).sendall(HEADER)
        began = time.monotonic()
        fresh = httpx.get(f"{ground.service.client.base_url}/healthz", timeout=30)
        assert fresh.is_success, fresh.text
    return f"another caller is answered in {time.monotonic() - began:.2f} s meanwhile"


def _revoked(ground: Ground) -> str:
    key = key_of_project(ground.data, "stranger")
    headers = {"Authorization": f"Bearer {key}", "Accept": "text/event-stream"}
    with httpx.Client(base_url=ground.service.client.base_url, headers=headers, timeout=60) as client:
        job = client.post("/v1/jobs", json=spec()).json()["id"]
        with httpx_sse.connect_sse(client, "GET", f"/v1/jobs/{job}/events") as stream:
            messages = (message for message in stream.iter_sse() if message.data)
            next(messages)
            revoker = threading.Thread(target=_revoke, args=(ground.data, "stranger"))
            revoker.start()
            began = time.monotonic()
            assert list(messages) == []
        revoker.join()
    return f"the stream ended after {time.monotonic() - began:.1f} s"


def _revoke(data: Path, project: str) -> None:
    async def done() -> None:
        async with keys.opened(ServiceSettings(data_dir=data)) as database, database.write() as tx:
            for key in await keys.listed(tx):
                if key.project == project:
                    await keys.revoke(tx, key.id)

    asyncio.run(done())


def _clocks(ground: Ground) -> str:
    for seconds in STEPS:
        lost = ground.hand.submit(spec(limits={"max_attempts": 1}))
        while (lease := ground.hand.lease(wait=20)).job_id != lost["id"]:
            lease.fail("invalid_data")  # what an attack before left in the queue
        ground.service.step(seconds)
        end = time.monotonic() + 10 * LEASE_SECONDS
        while ground.hand.job(lost["id"])["state"] != "failed":
            assert time.monotonic() < end, f"after a step of {seconds} s a dead job is kept"
            time.sleep(0.1)
    return "each dead job was found, no other"


ATTACKS = (
    Attack("a package's schema of 40 definitions that each name the next one twice", _schema),
    Attack("12 kB of unknown fields", _posted(spec(training={f"u{n}": {"a": {}} for n in range(700)}))),
    Attack("eight bodies of 1 MB in which each key stands twice", _duplicates),
    Attack("the same filter 1100 and 5000 times", _filters),
    Attack(f"batch, take, skip, repeat and one_hot of {float(NUMBER):.0e}", _numbers),
    Attack("a spec nested 2000 deep, JSON nested 500 000 deep", _nested),
    Attack("a header without end", _endless_header),
    Attack(f"{CONNECTIONS} connections with slow headers", _slow_headers),
    Attack("follow a job with a key that was revoked", _revoked),
    Attack("set the clocks by a second, a minute, an hour, forth and back", _clocks),
)


@contextmanager
def ground(folder: Path) -> Iterator[Ground]:
    """A service in a process of its own, whose clock can be set."""
    settings: dict[str, Any] = {
        "api_key": KEY, "allow_packages": 1, "lease_seconds": LEASE_SECONDS, "heartbeat_seconds": 0.5,
        "reaper_seconds": 0.1, "header_seconds": 5,
    }  # fmt: skip
    with stepped_service(folder, None, port=free_port(), **settings) as service:
        service.client.headers["Authorization"] = f"Bearer {KEY}"
        hand = HandWorker(service.client, "operators")
        hand.register(COMPONENTS, packages=True)
        data = folder / "data"
        key = key_of_project(data, "attacker")
        with httpx.Client(
            base_url=service.client.base_url, headers={"Authorization": f"Bearer {key}"}, timeout=60
        ) as attacker:
            yield Ground(service, data, attacker, hand)


def tried(ground: Ground) -> Iterator[tuple[Attack, str, str, float]]:
    """Each attack: what refused it, what went wrong, and the longest call of the other project's worker."""
    bystander = Bystander.with_a_job(ground.service.client)
    beside = threading.Thread(target=bystander.run)
    beside.start()
    try:
        for attack in ATTACKS:
            seen = len(bystander.delays)
            refused, wrong = "", ""
            try:
                refused = attack.run(ground)
            except (AssertionError, httpx.HTTPError) as error:
                wrong = f"{type(error).__name__}: {error}"
            yield attack, refused, wrong or "; ".join(bystander.wrong[:1]), max(bystander.delays[seen:], default=0.0)
    finally:
        bystander.stop()
        beside.join()
    assert not bystander.wrong, bystander.wrong
