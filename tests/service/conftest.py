"""A real server on a real SQLite file, in a thread of the test process, and a worker that speaks to it by hand."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tapeworks_service.server import Server, make_server
from tapeworks_service.settings import ServiceSettings

from .worker import HandWorker


@contextmanager
def serving(settings: ServiceSettings) -> Iterator[str]:
    """Run a service; gives its address."""
    server: Server = make_server(settings)
    ready, failed = threading.Event(), []

    async def startup(sockets: Any = None) -> None:
        await type(server).startup(server, sockets)
        ready.set()

    server.startup = startup  # type: ignore[method-assign]

    def run() -> None:
        try:
            server.run()
        except BaseException as error:
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(30)
    if failed or not server.started:
        thread.join(10)
        raise AssertionError(f"the service did not start: {failed}")
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The session's server: long leases, nothing is reaped."""
    with serving(ServiceSettings(data_dir=tmp_path_factory.mktemp("service"), port=0)) as address:
        yield address


@pytest.fixture(scope="session")
def api(url: str) -> Iterator[httpx.Client]:
    """A client of the session's server."""
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture
def worker(api: httpx.Client) -> Iterator[HandWorker]:
    """A registered worker with one CPU slot; it leaves no queued job behind."""
    hand = HandWorker(api)
    hand.register()
    yield hand
    hand.empty_queue()


@pytest.fixture
def own_service(tmp_path: Path) -> Any:
    """Starts a service of the test's own: `with own_service(lease_seconds=1) as (client, worker)`."""

    @contextmanager
    def start(**settings: Any) -> Iterator[tuple[httpx.Client, HandWorker]]:
        chosen = {"data_dir": tmp_path / "data", "port": 0, **settings}
        with serving(ServiceSettings(**chosen)) as address, httpx.Client(base_url=address, timeout=60) as client:
            yield client, HandWorker(client)

    return start
