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
def house(tmp_path_factory: pytest.TempPathFactory, new_database: Any) -> Iterator[tuple[httpx.Client, HandWorker]]:
    """A service that takes packages, and a worker that runs them."""
    settings = ServiceSettings(
        data_dir=tmp_path_factory.mktemp("assets"), port=0, database_url=new_database(), allow_packages=True,
        lease_seconds=600,
    )  # fmt: skip
    with serving(settings) as address, httpx.Client(base_url=address, timeout=60) as client:
        hand = HandWorker(client)
        hand.register([*COMPONENTS, CSV], packages=True)
        yield client, hand


@pytest.fixture
def hand(house: tuple[httpx.Client, HandWorker]) -> Iterator[HandWorker]:
    yield house[1]
    for kind in ("train", "inspect", "admit"):
        listed = house[0].get("/v1/jobs", params={"kind": kind, "state": ["queued", "running", "starting"]})
        for job in listed.json()["data"]:
            house[0].post(f"/v1/jobs/{job['id']}/cancel")
