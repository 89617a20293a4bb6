"""The hint of a refusal works: each is applied to the spec or the request, and the service takes it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tapeworks.errors import PROBLEMS, ProblemCode
from tests.support.hand_worker import HandWorker, spec

BATCH = [{"op": "batch", "batch_size": 8}]
MLP = {"component": "mlp", "config": {"outputs": 10}}
GAN: dict[str, Any] = {
    "data": {"source": "digits", "pipeline": BATCH},
    "step": "gan",
    "models": {"generator": MLP, "critic": MLP},
    "optimizers": {"generator": "keras/Adam", "critic": "keras/Adam"},
    "losses": {"adversarial": "keras/Hinge"},
}
Change = Callable[[dict[str, Any]], None]


def data(**changes: Any) -> dict[str, Any]:
    return {"source": "digits", "pipeline": BATCH, **changes}


def put(path: str, value: Any) -> Change:
    """Set a value at a path; None takes the key away."""

    def change(document: dict[str, Any]) -> None:
        *way, last = path.split("/")
        place: Any = document
        for step in way:
            place = place[int(step) if isinstance(place, list) else step]
        if value is None:
            del place[last]
        else:
            place[int(last) if isinstance(place, list) else last] = value

    return change


def append(path: str, value: Any) -> Change:
    def change(document: dict[str, Any]) -> None:
        place: Any = document
        for step in path.split("/"):
            place = place[step]
        place.append(value)

    return change


# code → a spec that is refused, a part of the hint, what it asks for
HINTS: list[tuple[ProblemCode, dict[str, Any], str, list[Change]]] = [
    (
        ProblemCode.UNKNOWN_FIELD, spec(training={"epochs": 1, "early_stoping": {}}), "Did you mean 'early_stopping'?",
        [put("training/early_stoping", None), put("training/early_stopping", {})],
    ),
    (
        ProblemCode.UNKNOWN_FIELD, spec(data=data(pipeline=[{"op": "cache", "field": "x"}, *BATCH])),
        "Remove it; expected one of op", [put("data/pipeline/0/field", None)],
    ),
    (
        ProblemCode.UNKNOWN_FIELD, spec(loss={"component": "keras/Hinge", "weighted": True}), "Did you mean 'weight'?",
        [put("loss/weighted", None), put("loss/weight", 2.0)],
    ),
    (ProblemCode.MISSING_FIELD, spec(data={"pipeline": BATCH}), "Add 'source'.", [put("data/source", "digits")]),
    (
        ProblemCode.INVALID_VALUE, spec(training={"epochs": 1e30}), "Each epoch leaves an event",
        [put("training/epochs", 1_000_000)],
    ),
    (
        ProblemCode.INVALID_VALUE, spec(training={"epochs": 3.0}), "Write an integer", [put("training/epochs", 3)],
    ),
    (
        ProblemCode.INVALID_VALUE, spec(losses={"model": "focal"}), "Keep 'losses'", [put("loss", None)],
    ),
    (
        ProblemCode.INVALID_VALUE, spec(metrics=["acme/dice"], training={"early_stopping": {"monitor": "val_dice"}}),
        'Add "mode": "max" beside "monitor"', [put("training/early_stopping/mode", "max")],
    ),
    (
        ProblemCode.INVALID_VALUE,
        spec(metrics=["acme/dice"], training={"checkpoint": {"best": {"monitor": "model_dice"}}}),
        'Add "mode": "max" beside "monitor"', [put("training/checkpoint/best/mode", "max")],
    ),
    (
        ProblemCode.INVALID_VALUE,
        spec(metrics=["acme/dice"],
             callbacks=[{"component": "reduce_learning_rate", "config": {"monitor": "val_dice"}}]),
        'Add "mode": "max" beside "monitor"', [put("callbacks/0/config/mode", "max")],
    ),
    (ProblemCode.UNKNOWN_COMPONENT, spec(model={"component": "mpl", "config": {"outputs": 3}}), "Did you mean 'mlp'?",
     [put("model/component", "mlp")]),
    (
        ProblemCode.UNKNOWN_COMPONENT, spec(loss={"component": "focal", "version": "9"}), "Version '",
        [put("loss/version", "2")],
    ),
    (
        ProblemCode.UNKNOWN_COMPONENT, spec(metrics=["focal"]), "'focal' is a loss; expected a metric.",
        [put("metrics/0", "keras/Hinge")],
    ),
    (
        ProblemCode.UNKNOWN_ROLE, {**GAN, "optimizers": {"generator": "keras/Adam", "critik": "keras/Adam"}},
        "Did you mean 'critic'?", [put("optimizers/critik", None), put("optimizers/critic", "keras/Adam")],
    ),
    (ProblemCode.MISSING_ROLE, {**GAN, "losses": {}}, "Add losses.adversarial.",
     [put("losses/adversarial", "keras/Hinge")]),
    (
        ProblemCode.INVALID_CONFIG, spec(loss={"component": "focal", "config": {"gama": 1.0}}),
        "Did you mean 'gamma'?", [put("loss/config/gama", None), put("loss/config/gamma", 1.0)],
    ),
    (ProblemCode.INVALID_CONFIG, spec(model={"component": "mlp", "config": {}}), "Add it.",
     [put("model/config/outputs", 10)]),
    (ProblemCode.MISSING_BATCH, spec(data=data(pipeline=[])), "batch", [append("data/pipeline", BATCH[0])]),
    (
        ProblemCode.ENDLESS_DATA, spec(data=data(pipeline=[*BATCH, {"op": "repeat"}])), "count",
        [put("data/pipeline/1/count", 2)],
    ),
    (
        ProblemCode.ENDLESS_DATA, spec(data=data(pipeline=[*BATCH, {"op": "repeat"}])), "training.steps_per_epoch",
        [put("training/steps_per_epoch", 10)],
    ),
    (
        ProblemCode.MISSING_VALIDATION_STEP, {**GAN, "data": data(validation=0.2)}, "Set data.validation to null",
        [put("data/validation", None)],
    ),
    (ProblemCode.NOT_SUPPORTED, spec(resources={"workers": 2}), "A job runs on one worker.",
     [put("resources/workers", 1)]),
]  # fmt: skip


@pytest.mark.parametrize(("code", "document", "hint", "changes"), HINTS)
def test_the_hint_about_a_spec_works(
    api: httpx.Client, worker: HandWorker, code: ProblemCode, document: dict[str, Any], hint: str, changes: list[Change]
) -> None:
    document = copy.deepcopy(document)
    refused = api.post("/v1/jobs", json=document)
    assert refused.status_code == 422
    (finding,) = [one for one in refused.json()["errors"] if one["code"] == code.value]
    assert hint in f"{finding['hint']} {PROBLEMS[code].hint}"
    for change in changes:
        change(document)
    taken = api.post("/v1/jobs", json=document)
    assert taken.status_code == 201, taken.text


def test_the_hint_about_a_body_works(api: httpx.Client, worker: HandWorker) -> None:
    body = '{"data": NaN}'
    refused = api.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_json")
    assert "without NaN" in refused.json()["hint"]


def test_the_hint_about_an_idempotency_key_works(api: httpx.Client, worker: HandWorker) -> None:
    first = {"Idempotency-Key": "hint-of-a-key-1"}
    assert api.post("/v1/jobs", json=spec(), headers=first).status_code == 201
    refused = api.post("/v1/jobs", json=spec(name="another"), headers=first)
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_mismatch")
    assert "Use a new key" in refused.json()["hint"]
    second = {"Idempotency-Key": "hint-of-a-key-2"}
    assert api.post("/v1/jobs", json=spec(name="another"), headers=second).status_code == 201


def test_every_code_of_a_spec_is_here() -> None:
    of_requests = {
        "invalid_request", "invalid_json", "invalid_spec", "idempotency_mismatch", "not_found", "method_not_allowed",
        "conflict", "in_use", "lease_lost", "digest_mismatch", "range_not_satisfiable", "payload_too_large",
        "header_too_large", "request_timeout",
        "unauthenticated", "forbidden", "quota_exceeded", "storage_full", "storage_unavailable",
        "unavailable", "internal",
    }  # fmt: skip
    assert {code.value for code, *_ in HINTS} | of_requests == {code.value for code in ProblemCode}
