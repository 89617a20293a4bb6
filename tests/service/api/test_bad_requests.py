"""Whatever is sent, the answer is JSON and never a 5xx."""

from __future__ import annotations

import copy
import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.hand_worker import SPEC, HandWorker

names = st.sampled_from(
    [
        "component",
        "config",
        "version",
        "model",
        "models",
        "outputs",
        "op",
        "layers",
        "data",
        "training",
        "labels",
        "",
        "\u0000",
    ]
)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)
values = st.recursive(
    scalars | st.sampled_from(["mlp", "focal", "keras/Adam", "digits", {"component": "mlp"}]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [here] if here else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += paths(item, (*here, key))
    return found


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """The smallest job with one or two places replaced, or a key added."""
    document = copy.deepcopy(SPEC)
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(paths(document)))
        place: Any = document
        for step in path[:-1]:
            place = place[step]
        if isinstance(place, dict) and draw(st.booleans()):
            place[draw(names)] = copy.deepcopy(draw(values))  # a sampled dict is one object for all examples
        else:
            place[path[-1]] = copy.deepcopy(draw(values))  # a sampled dict is one object for all examples
    return document


fuzzing = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzzing
@given(document=mutated())
def test_mutated_specs(api: httpx.Client, worker: HandWorker, document: Any) -> None:
    answer = api.post("/v1/jobs/validate", content=json.dumps(document))
    assert answer.status_code in (200, 400, 422), answer.text
    if answer.status_code == 200:
        assert api.post("/v1/jobs/validate", json=answer.json()["spec"]).status_code == 200
    else:
        for error in answer.json()["errors"]:
            assert error["pointer"] == "" or error["pointer"].startswith("/")


@fuzzing
@given(body=values, call=st.sampled_from(["heartbeat", "records", "checkpoints", "finish"]))
def test_odd_worker_messages(api: httpx.Client, worker: HandWorker, body: Any, call: str) -> None:
    answer = api.post(f"/v1/jobs/job_0/attempts/1/{call}", content=json.dumps(body), headers={"Tapeworks-Lease": "x"})
    assert answer.status_code in (400, 404, 422), answer.text


@fuzzing
@given(body=values)
def test_odd_registrations_leases_uploads_and_patches(api: httpx.Client, worker: HandWorker, body: Any) -> None:
    content = json.dumps(body)
    for method, path in (
        ("PUT", "/v1/worker/odd"),
        ("POST", "/v1/worker/leases"),
        ("POST", "/v1/uploads"),
        ("PATCH", "/v1/jobs/job_0"),
    ):
        assert api.request(method, path, content=content).status_code in (400, 404, 422)


@fuzzing
@given(text=st.text(max_size=30).filter(lambda text: text.isprintable()))
def test_odd_parameters(api: httpx.Client, worker: HandWorker, text: str) -> None:
    for name in ("after", "state", "kind", "label", "name", "created_after", "limit"):
        assert api.get("/v1/jobs", params={name: text}).status_code in (200, 422)


def test_every_answer_names_its_request(api: httpx.Client) -> None:
    answers = [api.get("/healthz"), api.get("/v1/jobs/job_0")]
    assert len({answer.headers["X-Request-Id"] for answer in answers}) == 2


@pytest.mark.parametrize("number", [10**400, -(10**400), 1e308])
def test_huge_numbers(api: httpx.Client, worker: HandWorker, number: float) -> None:
    document = {**SPEC, "model": {"component": "mlp", "config": {"outputs": number}}}
    assert api.post("/v1/jobs", json=document).status_code in (201, 422)
