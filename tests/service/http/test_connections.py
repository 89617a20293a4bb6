"""What connections may take before anybody knows whose they are; raw sockets against a real server."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tapeworks_service.http.connections import Connections, Limits
from tapeworks_service.observability.metrics import Metrics
from tapeworks_service.settings import ServiceSettings
from tests.service.conftest import serving
from tests.support.hand_worker import HandWorker, spec
from tests.support.stepped_clock import stepped_service

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


@contextmanager
def service(folder: Path, **settings: Any) -> Iterator[httpx.Client]:
    with (
        serving(ServiceSettings(data_dir=folder, port=0, **settings)) as url,
        httpx.Client(base_url=url, timeout=20) as client,
    ):
        yield client


def connected(client: httpx.Client, first: bytes = b"") -> socket.socket:
    made = socket.create_connection((client.base_url.host, client.base_url.port), timeout=20)
    made.sendall(first)
    return made


def answer(made: socket.socket) -> bytes:
    """All that comes until the other end closes."""
    received = b""
    with made:
        try:
            while chunk := made.recv(65536):
                received += chunk
        except ConnectionResetError:
            pass
    return received


def flood(made: socket.socket, data: bytes, times: int) -> None:
    for _ in range(times):
        made.sendall(data)


def fresh(client: httpx.Client) -> httpx.Response:
    """An answer over a connection of its own."""
    return httpx.get(f"{client.base_url}/healthz", timeout=20)


def test_an_endless_header_is_cut_short(tmp_path: Path) -> None:
    with service(tmp_path) as client:
        for endless in (b"X: " + b"a" * 65536, b"/" + b"x" * 65536, b"X: y\r\n" * 10_000):
            first = b"GET /" if endless[:1] == b"/" else GET
            made, sent = connected(client, first), 0
            try:
                while sent < 16 << 20:
                    made.sendall(endless)
                    sent += len(endless)
            except OSError:
                pass
            assert sent < 8 << 20, "what follows is not taken in"
            told = answer(made)
            assert told == b"" or told.startswith(b"HTTP/1.1 431"), told[:200]
        assert fresh(client).is_success


def test_a_long_header_is_told_so(tmp_path: Path) -> None:
    with service(tmp_path, max_header_bytes=2048) as client:
        told = answer(connected(client, GET + b"X: " + b"a" * 3000))
        assert told.startswith(b"HTTP/1.1 431"), told
        assert b'"code":"header_too_large"' in told
        assert client.get("/healthz", headers={"X": "a" * 1000}).is_success


@pytest.mark.parametrize("piece", [b"1;" + b"x" * 60_000 + b"\r\n", b"0\r\n" + b"X: y\r\n" * 10_000])
def test_endless_framing_of_a_body_is_cut_short(tmp_path: Path, piece: bytes) -> None:
    with service(tmp_path) as client:
        head = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        made = connected(client, head + piece)
        with made, pytest.raises(OSError, match=r"reset|pipe"):
            flood(made, b"x: " + b"y" * 60_000 if piece.startswith(b"0") else b"x" * 60_000, 2_000)
        assert fresh(client).is_success


def test_slow_headers_and_slow_bodies_have_their_time(tmp_path: Path) -> None:
    with service(tmp_path, header_seconds=0.5, body_seconds=0.5) as client:
        silent, header = connected(client), connected(client, GET)
        body = connected(client, b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{")
        assert answer(silent) == b""
        assert answer(header).startswith(b"HTTP/1.1 408")
        told = answer(body)
        assert told.startswith(b"HTTP/1.1 408")
        assert b'"code":"request_timeout"' in told
        kept = connected(client, GET + b"\r\n")  # the next request of a connection that was good
        assert kept.recv(65536).startswith(b"HTTP/1.1 200")
        kept.sendall(GET)
        assert answer(kept).startswith(b"HTTP/1.1 408")
        assert refusals(client) == {"slow_header", "slow_body"}


def refusals(client: httpx.Client) -> set[str]:
    """Why connections were refused, by the service's own count."""
    lines = [line for line in client.get("/metrics").text.splitlines() if "connections_refused_total{" in line]
    return {line.partition('reason="')[2].partition('"')[0] for line in lines}


def test_a_client_that_reads_nothing_is_given_up(tmp_path: Path) -> None:
    with service(tmp_path, send_seconds=0.5) as client, socket.socket() as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        made.connect((client.base_url.host, client.base_url.port))
        made.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 40)
        end = time.monotonic() + 20
        while "unread_answer" not in refusals(client):
            assert time.monotonic() < end
            time.sleep(0.05)


def test_requests_that_wait_for_answers_are_few(tmp_path: Path) -> None:
    with service(tmp_path) as client, socket.socket() as made:
        made.connect((client.base_url.host, client.base_url.port))
        with pytest.raises(OSError, match=r"reset|pipe"):
            flood(made, b"GET /v1/jobs?wait=20 HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200, 10_000)
        assert fresh(client).is_success


def test_slow_headers_on_every_connection_leave_room_for_others(tmp_path: Path) -> None:
    with service(tmp_path, max_connections=100, worker_connections=10) as client, ExitStack() as stack:
        slow = [stack.enter_context(connected(client, GET)) for _ in range(110)]
        worker = HandWorker(client)
        end = time.monotonic() + 20
        while True:  # those that have been there for a second give their places up
            try:
                if fresh(client).is_success:
                    break
            except httpx.TransportError:
                pass
            assert time.monotonic() < end
        worker.register()
        assert worker.submit(spec())["state"] == "queued"
        assert slow


def test_what_is_above_the_total_is_the_workers(tmp_path: Path) -> None:
    with service(tmp_path, max_connections=20, worker_connections=5) as client, ExitStack() as stack:
        worker = HandWorker(client)
        worker.register()
        client.get("/v1/jobs")
        followed = client.post("/v1/jobs", json=spec()).json()["id"]
        wanted = f"GET /v1/jobs/{followed}/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
        streams = [stack.enter_context(connected(client, wanted.encode())) for _ in range(20)]
        for one in streams[:19]:
            assert one.recv(12) == b"HTTP/1.1 200"
        with httpx.Client(base_url=client.base_url) as another:
            assert another.get("/healthz").status_code == 503
            leased = HandWorker(another).lease()
            assert leased.heartbeat().status_code == 200, "a worker renews its lease whoever else is there"


def test_an_address_has_so_many_connections_and_no_more(tmp_path: Path) -> None:
    with service(tmp_path, max_connections_per_address=10) as client, ExitStack() as stack:
        first = [stack.enter_context(connected(client, GET)) for _ in range(10)]
        told = answer(connected(client, GET))
        assert told.startswith(b"HTTP/1.1 503"), told
        assert b"one address" in told
        other = socket.create_connection(
            (client.base_url.host, client.base_url.port), timeout=20, source_address=("127.0.0.2", 0)
        )
        other.sendall(GET + b"Connection: close\r\n\r\n")
        assert answer(other).startswith(b"HTTP/1.1 200")
        assert first


def test_behind_a_proxy_the_limit_holds_for_the_address_that_it_names(tmp_path: Path) -> None:
    settings = {"max_connections_per_address": 3, "trusted_proxies": "127.0.0.0/8"}
    with service(tmp_path, **settings) as client, ExitStack() as stack:
        HandWorker(client).register()
        job = client.post("/v1/jobs", json=spec()).json()["id"]

        def asked(address: str) -> socket.socket:
            head = f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n"
            lied = f"X-Forwarded-For: 9.9.9.9, {address}, 127.0.0.7\r\n\r\n"
            return stack.enter_context(connected(client, (head + lied).encode()))

        assert [asked("10.0.0.1").recv(12)[9:] for _ in range(3)] == [b"200"] * 3
        assert asked("10.0.0.1").recv(12)[9:] == b"503"
        assert asked("10.0.0.2").recv(12)[9:] == b"200"


def test_an_address_is_the_last_that_no_proxy_of_ours_has() -> None:
    limits = Limits.of(ServiceSettings(trusted_proxies="10.0.0.0/8, ::1"))
    connections = Connections(limits, Metrics())
    assert connections.is_proxy("10.1.2.3")
    assert not connections.is_proxy("11.1.2.3")
    assert connections.client_of("10.0.0.1", ["1.1.1.1, 2.2.2.2", "10.0.0.9"]) == "2.2.2.2"
    assert connections.client_of("10.0.0.1", []) == "10.0.0.1"


@pytest.mark.thorough
def test_slow_headers_on_a_thousand_connections(tmp_path: Path, free_ports: list[int]) -> None:
    with stepped_service(tmp_path, None, port=free_ports[0]) as running, ExitStack() as stack:
        for _ in range(1024):
            stack.enter_context(connected(running.client, GET))
        assert fresh(running.client).is_success
