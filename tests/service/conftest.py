"""A real server on a real database of either kind, in a thread, and a worker that speaks to it by hand."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from tapeworks.cli.main import app
from tapeworks_service.server import Server, make_server
from tapeworks_service.settings import ServiceSettings
from tests.support.hand_worker import HandWorker
from tests.support.postgres import Postgres, postgres
from tests.support.queues import Queue, opened


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
def postgres_server() -> Iterator[Postgres]:
    """The session's PostgreSQL; every service has a database of its own there."""
    with postgres() as server:
        yield server


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest) -> Callable[[], str | None]:
    """Makes an empty database; gives its URL, None for the file that is the default. Tests run with each kind."""
    if request.param == "sqlite":
        return lambda: None
    server: Postgres = request.getfixturevalue("postgres_server")
    return server.create


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory, new_database: Callable[[], str | None]) -> Iterator[str]:
    """The session's server: long leases, nothing is reaped."""
    folder = tmp_path_factory.mktemp("service")
    with serving(ServiceSettings(data_dir=folder, port=0, database_url=new_database())) as address:
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
def own_service(tmp_path: Path, new_database: Callable[[], str | None]) -> Any:
    """Starts a service of the test's own: `with own_service(lease_seconds=1) as (client, worker)`.

    The same again is the same installation: its database and its folder.
    """
    return OwnService(tmp_path / "data", new_database())


@pytest.fixture
def own_sqlite_service(tmp_path: Path) -> Any:
    """The same on a SQLite file, for tests that look into it."""
    return OwnService(tmp_path / "data", None)


@dataclass(frozen=True)
class OwnService:
    """An installation: called, it runs a service."""

    folder: Path
    database_url: str | None

    @property
    def url(self) -> str:
        """Its database."""
        return self.database_url or f"sqlite+aiosqlite:///{self.folder / 'tapeworks.db'}"

    @contextmanager
    def __call__(self, **settings: Any) -> Iterator[tuple[httpx.Client, HandWorker]]:
        """Run a service; gives a client of it and a worker that has not registered."""
        chosen = {"data_dir": self.folder, "port": 0, "database_url": self.database_url, **settings}
        with serving(ServiceSettings(**chosen)) as address, httpx.Client(base_url=address, timeout=60) as client:
            yield client, HandWorker(client)


@pytest.fixture
def tapeworks(own_service: OwnService, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs `tapeworks keys …` on the installation of `own_service`; its output as JSON."""
    if own_service.database_url is not None:
        monkeypatch.setenv("TAPEWORKS_DATABASE_URL", own_service.database_url)

    def run(*arguments: str, fails: bool = False) -> Any:
        told = CliRunner().invoke(app, ["keys", *arguments, "--data-dir", str(own_service.folder)])
        assert (told.exit_code != 0) is fails, told.output
        if fails:
            return str(told.exception) + told.output
        return json.loads(told.stdout) if "--json" in arguments else told.stdout

    return run


@pytest.fixture
def free_ports() -> list[int]:
    """Two ports that nobody listens on now: for services in processes of their own."""
    with ExitStack() as stack:
        listening = [stack.enter_context(socket.socket()) for _ in range(2)]
        for one in listening:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in listening]


@pytest.fixture
def on_queue(
    tmp_path: Path, new_database: Callable[[], str | None]
) -> Callable[[Callable[[Queue], Awaitable[None]]], None]:
    """Runs a coroutine function with a fresh queue."""
    url = new_database() or f"sqlite+aiosqlite:///{tmp_path / 'queue.db'}"

    def run(body: Callable[[Queue], Awaitable[None]]) -> None:
        async def main() -> None:
            async with opened(url) as fresh:
                await body(fresh)

        asyncio.run(main())

    return run
