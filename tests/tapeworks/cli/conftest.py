"""A real service in a thread, a worker played by hand, and the command line against them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest
from typer.testing import CliRunner, Result

from tapeworks.cli.main import app
from tapeworks_service.settings import ServiceSettings
from tests.service.conftest import serving
from tests.support.hand_worker import HandWorker

Tapeworks = Callable[..., Result]


@pytest.fixture(scope="package")
def hand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HandWorker]:
    """A registered worker of a service that all tests of this folder share."""
    settings = ServiceSettings(data_dir=tmp_path_factory.mktemp("service"), port=0, lease_seconds=600)
    with serving(settings) as address, httpx.Client(base_url=address, timeout=60) as client:
        worker = HandWorker(client)
        worker.register()
        yield worker


def runner(url: str, key: str | None = None) -> Tapeworks:
    """Runs the command line against a service; `expect`: its exit code."""

    def run(*arguments: str, expect: int = 0, input: str | None = None) -> Result:
        command = ["--url", url, *(["--key", key] if key else []), *arguments]
        done = CliRunner().invoke(app, command, env={"COLUMNS": "200"}, input=input)
        assert done.exit_code == expect, f"{arguments}: {done.exit_code}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture
def tapeworks(hand: HandWorker) -> Iterator[Tapeworks]:
    """The command line against the service of this folder. The queue is empty afterwards."""
    yield runner(str(hand.client.base_url))
    hand.empty_queue()
