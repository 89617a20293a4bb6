"""What comes over HTTP: whatever is sent, no call answers with a 5xx, and nobody learns of another's project.

Schemathesis makes requests from the served OpenAPI document, as it allows them and as it forbids them; they go out with
a key of every right, with none, and with one of another project.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode

from qualification.security.job_beside import key_of_project
from tapeworks_service.settings import ServiceSettings
from tests.service.conftest import serving
from tests.support.hand_worker import COMPONENTS, HandWorker, spec
from tests.support.uploading import a_bundle, a_package, make

CANARY = "canary0of0the0first0project"
KEY = "tw_" + "first" * 8
EVERY_RIGHT = "every right"
WHOSE = ("no key", "another project", EVERY_RIGHT)


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
        other = key_of_project(folder, "other")
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
        yield url, {EVERY_RIGHT: KEY, "no key": None, "another project": other}


def sent(url: str, keys: Mapping[str, str | None], *, examples: int) -> dict[str, Sent]:
    """Make so many requests of each kind to each operation, and send each with the key of every caller.

    The one of every right comes last: what it deletes, the others have looked for.
    """
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    told = {whose: Sent() for whose in WHOSE}
    for found in schema.get_all_operations():
        operation = found.ok()
        for one in told.values():
            one.operations += 1
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            _fuzz(operation, mode, keys, told, examples=examples)
    return told


def _fuzz(
    operation: Any, mode: Any, keys: Mapping[str, str | None], told: Mapping[str, Sent], *, examples: int
) -> None:
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
        for whose, one in told.items():
            answer = case.call(headers={} if keys[whose] is None else {"Authorization": f"Bearer {keys[whose]}"})
            one.requests += 1
            if answer.status_code >= 500 and answer.status_code != 507:
                one.wrong.append(f"{operation.label}: {answer.status_code} {answer.text[:300]}")
            if whose != EVERY_RIGHT and CANARY in answer.text:
                one.wrong.append(f"{operation.label}: what is another project's was told")

    with suppress(Unsatisfiable):  # nothing can be wrong about a call that takes nothing
        send()
