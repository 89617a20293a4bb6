"""What the check of a request may cost, and what becomes of a check that fails."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tapeworks.errors import SpecInvalid
from tapeworks.spec.parsing import parse_json
from tapeworks_service.catalogue.bounded_validator import bounded_validator
from tapeworks_service.catalogue.uploaded_packages import entries_of
from tapeworks_service.http.work_budget import LongChecks, WorkExceeded, budget
from tests.support.hand_worker import COMPONENTS, HandWorker, spec

_D = {"digest": "0" * 64}
DUPLICATES = b"{" + b",".join(b'"k%d":1' % (n // 2) for n in range(95_000)) + b"}"
"""A megabyte in which every key appears twice: to count each of them took four minutes."""


def processor_seconds(call: Callable[[], Any]) -> float:
    began = time.thread_time()
    call()
    return time.thread_time() - began


def test_duplicate_keys_are_found_by_linear_work() -> None:
    def parse() -> None:
        with pytest.raises(SpecInvalid, match="appears twice"):
            parse_json(DUPLICATES)

    assert processor_seconds(parse) < 5


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"items": {"anyOf": [{"const": n} for n in range(2_000)]}}, [1_999] * 100_000),
        ({"items": {"enum": [f"x{n}" for n in range(4_000)]}}, ["x3999"] * 100_000),
        ({"contains": {"anyOf": [{"const": n} for n in range(2_000)]}}, [-1] * 100_000),
        ({"anyOf": [{"type": "string", "const": str(n)} for n in range(2_000)]}, ["x"] * 200_000),
    ],
)
def test_a_check_whose_work_multiplies_ends_at_its_budget(schema: Any, value: Any) -> None:
    def check() -> None:
        with budget(0.1), pytest.raises(WorkExceeded):
            list(bounded_validator(schema).iter_errors(value))

    assert processor_seconds(check) < 5


def test_unique_items_are_compared_by_linear_work_and_messages_are_short() -> None:
    validator = bounded_validator({"uniqueItems": True, "maxItems": 1})
    different = [{"a": n} for n in range(50_000)]
    errors: list[Any] = []
    assert processor_seconds(lambda: errors.extend(validator.iter_errors(different))) < 5
    assert [(error.validator, len(error.message) < 400) for error in errors] == [("maxItems", True)]
    assert [error.validator for error in bounded_validator({"uniqueItems": True}).iter_errors([{"a": 1}] * 2)] == [
        "uniqueItems"
    ]


ODD_ROLES: list[dict[str, Any]] = [
    {}, {"models": 5}, {"models": ["model"], "optimizers": 3}, {"models": ["model"], "optimizers": {"model": 5}},
    {"models": ["model"], "frozen": ["x"], "optimizers": {}, "losses": 1},
]  # fmt: skip


@pytest.mark.parametrize("roles", ODD_ROLES)
def test_roles_that_make_no_sense_are_a_finding(api: httpx.Client, worker: HandWorker, roles: Any) -> None:
    worker.register([*COMPONENTS, {"kind": "step", "name": "acme/odd", "config_schema": {}, "roles": roles, **_D}])
    answer = api.post("/v1/jobs", json=spec(step="acme/odd"))
    assert answer.status_code == 422, answer.text


def test_what_an_admission_says_is_read_whatever_it_is() -> None:
    for result in (None, 5, [], {"components": 5, "refused": "no"}, {"components": [5, None, {"kind": []}]}):
        entries, refused = entries_of({"result": result}, "1")
        assert entries == []
        assert all("reason" in one for one in refused)


def test_deep_nesting_is_a_finding(api: httpx.Client, worker: HandWorker) -> None:
    for levels in (50, 100, 200, 300, 600, 2_000):
        layer: Any = '{"component": "keras/Dense"}'
        for _ in range(levels):
            layer = f'{{"component": "keras/Dense", "config": {{"kernel_regularizer": {layer}}}}}'
        whole = json.dumps(spec(model={"component": "sequential", "config": {"layers": ["HERE"]}}))
        answer = api.post("/v1/jobs/validate", content=whole.replace('"HERE"', layer))
        assert answer.status_code in (400, 422), (levels, answer.text[:300])
        branch: Any = '"digits"'
        for _ in range(levels):
            branch = f'{{"component": "concatenate", "config": {{"sources": [{branch}]}}}}'
        whole = json.dumps(spec(data={"source": "HERE", "pipeline": [{"op": "batch", "batch_size": 1}]}))
        answer = api.post("/v1/jobs/validate", content=whole.replace('"HERE"', branch))
        assert answer.status_code in (200, 400, 422), (levels, answer.text[:300])


def test_many_mistakes_of_a_message_are_cut_short(api: httpx.Client) -> None:
    answer = api.patch("/v1/jobs/job_0", content=json.dumps({f"k{n}": 1 for n in range(900)}))
    assert (answer.status_code, len(answer.json()["errors"])) == (422, 50)
    answer = api.patch("/v1/jobs/job_0", content=json.dumps({f"k{n}": 1 for n in range(50_000)}))
    assert (answer.status_code, "more than 1000 fields" in answer.text) == (422, True)


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b",".join([b"[]"] * 300_000) + b"]",
        json.dumps(spec(metrics=[5] * 300_000)).encode(),
        json.dumps(spec(callbacks=[{f"k{n}": 1 for n in range(700)}] * 100)).encode(),
        json.dumps({**spec(), **{f"k{n}": 1 for n in range(70_000)}}).encode(),
    ],
)
def test_documents_of_many_parts_are_refused_before_each_is_judged(
    api: httpx.Client, worker: HandWorker, body: bytes
) -> None:
    answer = api.post("/v1/jobs/validate", content=body)
    assert answer.status_code in (400, 422)
    assert "more than" in answer.json()["detail"]


def test_a_job_reads_so_many_inputs_and_no_more(api: httpx.Client, worker: HandWorker) -> None:
    layers = [{"component": "pretrained", "config": {"from": f"job_{n}"}} for n in range(101)]
    answer = api.post("/v1/jobs", json=spec(model={"component": "sequential", "config": {"layers": layers}}))
    assert answer.status_code == 422
    assert "at most 100" in answer.json()["detail"]


@pytest.mark.parametrize("name", ["label", "state"])
@pytest.mark.parametrize("count", [21, 1_100, 5_000])
def test_lists_in_a_query_are_short(api: httpx.Client, name: str, count: int) -> None:
    answer = api.get("/v1/jobs?" + "&".join([f"{name}=queued"] * count))
    assert answer.status_code == (431 if count == 5_000 else 422), answer.text


def test_every_list_in_a_query_has_a_most(api: httpx.Client) -> None:
    unbounded = [
        (path, parameter["name"])
        for path, operations in api.get("/openapi.json").json()["paths"].items()
        for operation in operations.values()
        for parameter in operation.get("parameters", ())
        for schema in (parameter["schema"], *parameter["schema"].get("anyOf", ()))
        if schema.get("type") == "array" and schema.get("maxItems", 10**9) > 20
    ]
    assert unbounded == []


def test_after_a_long_check_a_project_is_checked_beside_the_loop() -> None:
    async def run() -> tuple[bool, bool, bool]:
        checks = LongChecks()
        before = checks.at_once("slow")
        assert await checks.run("slow", lambda: 5) == 5
        checks.close()
        return before, checks.at_once("slow"), checks.at_once("another")

    assert asyncio.run(run()) == (True, False, True)
