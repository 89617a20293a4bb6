"""What comes over HTTP: whatever is sent, no call answers with a 5xx, and nobody learns of another's project.

Schemathesis makes requests from the served OpenAPI document, as it allows them and as it forbids them; they go out with
a key of every right, with none, and with one of another project.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode

from tapeworks_service import keys
from tapeworks_service.settings import ServiceSettings
from tests.service.conftest import serving
from tests.service.uploading import a_bundle, a_package, make
from tests.service.worker import COMPONENTS, HandWorker, spec

CANARY = "canary0of0the0first0project"
KEY = "tw_" + "first" * 8
WHOSE = ("every right", "no key", "another project")


@dataclass
class Sent:
    """What came of the requests of one caller."""

    operations: int = 0
    requests: int = 0
    wrong: list[str] = field(default_factory=list)
    """5xx answers, and answers that held what is another's."""


@contextmanager
def house(folder: Path) -> Iterator[tuple[str, dict[str, str | None]]]:
    """A service with a project full of canaries; its address, and the key of each caller."""
    chosen: dict[str, Any] = {"wait_seconds": 0.2, "allow_packages": True, "lease_seconds": 600}
    given_settings = ServiceSettings(data_dir=folder, port=0, api_key=KEY, **chosen)
    with serving(given_settings) as url:
        other = asyncio.run(_another_key(given_settings))
        with httpx.Client(base_url=url, timeout=60, headers={"Authorization": f"Bearer {KEY}"}) as client:
            hand = HandWorker(client)
            hand.register(COMPONENTS, packages=True)
            hand.submit(spec(name=CANARY, labels={CANARY: CANARY}))
            lease = hand.lease()
            lease.records({"record": "log", "stream": "stdout", "text": CANARY})
            lease.succeed(CANARY.encode())
            make(client, "dataset", f"{CANARY}\n".encode(), name=CANARY, format="text")
            make(client, "bundle", a_bundle(), name=CANARY)
            make(client, "package", a_package(CANARY))
        yield url, {"every right": KEY, "no key": None, "another project": other}


async def _another_key(chosen: ServiceSettings) -> str:
    async with keys.opened(chosen) as database, database.write() as tx:
        _, text = await keys.create(tx, name="other", project="other", scopes=["read", "submit"])
    return text


def sent(url: str, key: str | None, *, may_see: bool, examples: int) -> Sent:
    """Send so many requests of each kind to each operation."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    told = Sent()
    for found in schema.get_all_operations():
        operation = found.ok()
        told.operations += 1
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            _fuzz(operation, mode, headers, told, may_see=may_see, examples=examples)
    return told


def _fuzz(operation: Any, mode: Any, headers: dict[str, str], told: Sent, *, may_see: bool, examples: int) -> None:
    try:
        strategy = operation.as_strategy(generation_mode=mode)
    except Exception as error:
        raise AssertionError(f"{operation.label}: {error}") from error

    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=strategy)
    def send(case: Any) -> None:
        answer = case.call(headers=headers)
        told.requests += 1
        if answer.status_code >= 500 and answer.status_code != 507:
            told.wrong.append(f"{operation.label}: {answer.status_code} {answer.text[:300]}")
        if not may_see and CANARY in answer.text:
            told.wrong.append(f"{operation.label}: what is another project's was told")

    with suppress(Unsatisfiable):  # nothing can be wrong about a call that takes nothing
        send()
