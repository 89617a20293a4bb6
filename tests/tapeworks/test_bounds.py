"""Every number of a spec has bounds, and a refusal names the field, both ends, what was given and the reason."""

from collections.abc import Iterator
from typing import Any

import pytest

from tapeworks.bounds import INT64
from tapeworks.errors import Finding, SpecInvalid
from tapeworks.spec.job_spec import JobSpec
from tapeworks.spec.parsing import parse_spec


def spec(**changes: Any) -> dict[str, Any]:
    data = {"source": "digits", "pipeline": changes.pop("pipeline", [{"op": "batch", "batch_size": 8}])}
    return {"data": data, "model": {"component": "mlp", "config": {}}, "optimizer": "keras/Adam", **changes}


def refusal(document: dict[str, Any]) -> Finding:
    with pytest.raises(SpecInvalid) as caught:
        parse_spec(document)
    (finding,) = caught.value.findings
    return finding


def numbers(schema: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, dict):
        if schema.get("type") in ("integer", "number"):
            yield place, schema
        for key, value in schema.items():
            yield from numbers(value, f"{place}/{key}")
    elif isinstance(schema, list):
        for index, value in enumerate(schema):
            yield from numbers(value, f"{place}/{index}")


def test_every_number_of_the_schema_has_both_ends() -> None:
    found = dict(numbers(JobSpec.model_json_schema()))
    assert len(found) > 40
    of_any_dtype = {place for place in found if "padding" in place and found[place]["type"] == "number"}
    ends = ({"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"})
    unbounded = {place for place, schema in found.items() if not all(end & schema.keys() for end in ends)}
    assert unbounded == of_any_dtype  # what fills up float64 fields may be any float


@pytest.mark.parametrize("epochs", [1e30, 10**30, -1, 1_000_001])
def test_epochs_that_would_hold_a_worker_for_ever(epochs: float) -> None:
    finding = refusal(spec(training={"epochs": epochs}))
    assert finding.pointer == "/training/epochs"
    assert finding.message.startswith("epochs must be between 0 and 1000000, got ")
    assert finding.hint == "Each epoch leaves an event and a point of each metric in the database."
    parse_spec(spec(training={"epochs": 1_000_000}))


REFUSED = {
    "a union": (
        spec(training={"execution": {"steps_per_call": 10**9}}),
        "steps_per_call must be between 1 and 100000, got 1000000000",
    ),
    "an open end": (spec(limits={"timeout_seconds": 0}), "timeout_seconds must be above 0, at most 31622400, got 0"),
    "beyond the database": (spec(resources={"cpus": 10**30}), "cpus must be between 1 and 65536, got 1e+30"),
    "an operation": (
        spec(pipeline=[{"op": "batch", "batch_size": 0}]),
        "batch_size must be between 1 and 1048576, got 0",
    ),
    "inside a list": (
        spec(pipeline=[{"op": "padded_batch", "batch_size": 8, "padded_shapes": {"x": [0]}}]),
        "x[0] must be between 1 and 2147483647, got 0",
    ),
    "a loss's weight": (
        spec(loss={"outputs": {"a": {"component": "keras/MeanSquaredError", "weight": 1e300}}}),
        "weight must be between -1e+18 and 1e+18, got 1e+300",
    ),
    "not a whole number": (
        spec(training={"early_stopping": {"patience": 2.5}}),
        "patience must be a valid integer, got 2.5",
    ),
    "an integer of a config": (
        spec(model={"component": "mlp", "config": {"hidden": [8, 2**64]}}),
        "hidden.1 must be between -9223372036854775808 and 1.84467e+19, got 1.84467e+19",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_says_what_is_expected_and_what_came(case: str) -> None:
    document, message = REFUSED[case]
    finding = refusal(document)
    assert finding.message == message
    assert finding.hint


def test_what_tensors_can_hold_is_taken() -> None:
    config = {"hidden": [INT64, -INT64 - 1, 2**64 - 1], "scale": 1e300}
    assert parse_spec(spec(model={"component": "mlp", "config": config})).models["model"].config == config


UNKNOWN = {
    "field of shuffle": (
        spec(pipeline=[{"op": "shuffle", "buffer_size": 8, "field": "x"}]),
        "Remove it; expected one of buffer_size, op, seed, training_only.",
    ),
    "a misspelling": (spec(training={"early_stopping": {"patince": 3}}), "Did you mean 'patience'?"),
    "of another place": (
        spec(step={"component": "supervised", "weight": 2.0}),
        "Remove it; expected one of component, config, version.",
    ),
    "of an output's loss": (
        spec(loss={"outputs": {"a": {"component": "keras/MeanSquaredError", "wieght": 2.0}}}),
        "Did you mean 'weight'?",
    ),
    "at the root": (spec(optimiser="keras/Adam"), "Did you mean 'optimizer'?"),
    "beside a fraction": (
        {**spec(), "data": {"source": "digits", "validation": {"fraction": 0.1, "splitt": "tail"}}},
        "Did you mean 'split'?",
    ),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_the_hint_about_an_unknown_field_can_be_followed(case: str) -> None:
    document, hint = UNKNOWN[case]
    assert refusal(document).hint == hint
