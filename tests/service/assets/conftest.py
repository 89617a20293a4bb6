"""A service that takes packages, and a worker played by hand that runs them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tapeworks_service.settings import ServiceSettings
from tests.service.conftest import serving
from tests.support.hand_worker import COMPONENTS, HandWorker

CSV = {"kind": "source", "name": "csv", "batched": False, "digest": "0" * 64, "config_schema": {
    "type": "object", "properties": {"files": {"x-files": True}, "labels": {"type": "string"}}}}  # fmt: skip


@pytest.fixture(scope="module")
def package_worker(tmp_path_factory: pytest.TempPathFactory, new_database: Any) -> Iterator[HandWorker]:
    """A worker that runs packages; its client calls a service that takes them."""
    settings = ServiceSettings(
        data_dir=tmp_path_factory.mktemp("assets"), port=0, database_url=new_database(), allow_packages=True,
        lease_seconds=600,
    )  # fmt: skip
    with serving(settings) as address, httpx.Client(base_url=address, timeout=60) as client:
        worker = HandWorker(client)
        worker.register([*COMPONENTS, CSV], packages=True)
        yield worker


@pytest.fixture
def hand(package_worker: HandWorker) -> Iterator[HandWorker]:
    """The worker; no job of a test is left for the next one."""
    yield package_worker
    package_worker.empty_queue("train", "inspect", "admit")
