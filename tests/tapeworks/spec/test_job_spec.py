"""The job spec: what is taken, what is refused, and where a refusal points."""

import copy
import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapeworks.errors import Finding, ProblemCode, SpecInvalid
from tapeworks.spec.job_spec import JobSpec, editor_schema
from tapeworks.spec.parsing import parse_json, parse_spec
from tapeworks.spec.shorthand import fold

SMALLEST: dict[str, Any] = {
    "data": {
        "source": "digits",
        "validation": 0.2,
        "pipeline": [{"op": "shuffle", "buffer_size": 1000}, {"op": "batch", "batch_size": 32}],
    },
    "model": {"component": "mlp", "config": {"hidden": [64], "outputs": 10}},
    "optimizer": "keras/Adam",
    "loss": {"component": "focal", "config": {"gamma": 2.0}},
    "metrics": ["keras/SparseCategoricalAccuracy"],
    "training": {"epochs": 5},
}


def with_value(path: str, value: Any) -> dict[str, Any]:
    """The smallest spec with one place of it changed; `a/b` descends."""
    document = copy.deepcopy(SMALLEST)
    *parents, last = path.split("/")
    place = document
    for key in parents:
        place = place.setdefault(key, {})
    place[last] = value
    return document


def refusals(document: Any) -> list[Finding]:
    with pytest.raises(SpecInvalid) as refused:
        parse_spec(document)
    return list(refused.value.findings)


def test_the_canonical_form_is_plural_complete_and_stable() -> None:
    canonical = parse_spec(SMALLEST).document()
    assert set(canonical["models"]) == set(canonical["optimizers"]) == set(canonical["losses"]) == {"model"}
    assert canonical["data"]["source"] == {"component": "digits", "version": None, "config": {}}
    assert canonical["data"]["validation"] == {
        "fraction": 0.2,
        "split": "random",
        **dict.fromkeys(("stratify", "group", "by")),
    }
    assert canonical["step"]["component"] == "supervised"
    assert canonical["training"]["epochs"] == 5
    assert canonical["export"]["formats"] == ["keras", "saved_model"]
    assert parse_spec(canonical).document() == canonical


def test_losses_of_several_outputs() -> None:
    """By name, path or number; one, several or none each; a weight each, and one for a loss of all outputs."""
    one, half = "keras/MeanSquaredError", {"component": "keras/MeanSquaredError", "weight": 0.5}
    document = with_value("loss", {"outputs": {"a": one, "h/0": [one, half], "2": None}})
    losses = parse_spec(document).document()["losses"]["model"]["outputs"]
    full = {"component": "keras/MeanSquaredError", "version": None, "config": {}}
    assert losses == {"a": {**full, "weight": 1.0}, "h/0": [{**full, "weight": w} for w in (1.0, 0.5)], "2": None}
    assert parse_spec(with_value("loss", half)).document()["losses"]["model"] == {**full, "weight": 0.5}
    jsonschema.validate(document, editor_schema())
    jsonschema.validate(parse_spec(document).document(), editor_schema())


@pytest.mark.parametrize(
    ("outputs", "pointer"),
    [
        ({}, "/loss/outputs"),
        ({"a": None}, "/loss"),
        ({"a": []}, "/loss/outputs/a"),
        ({"a": {"weight": 1.0}}, "/loss/outputs/a/component"),
        ({"a": ["keras/Huber", {"component": "keras/Huber", "weight": "1"}]}, "/loss/outputs/a/1/weight"),
    ],
)
def test_losses_of_outputs_that_are_none(outputs: Any, pointer: str) -> None:
    assert [found.pointer for found in refusals(with_value("loss", {"outputs": outputs}))] == [pointer]


def test_python_users_may_build_the_same_spec_from_keywords() -> None:
    assert JobSpec.model_validate(SMALLEST) == parse_spec(json.loads(json.dumps(SMALLEST)))


def test_one_epoch_is_the_default_unless_steps_are_given() -> None:
    assert parse_spec(with_value("training", {})).training.epochs == 1
    assert parse_spec(with_value("training", {"max_steps": 7})).training.epochs is None
    assert parse_spec(with_value("training", {"epochs": 0})).training.epochs == 0


def test_a_source_may_stand_where_a_fraction_may() -> None:
    spec = parse_spec(with_value("data/validation", {"component": "csv", "config": {"files": "held_out.csv"}}))
    assert spec.document()["data"]["validation"]["component"] == "csv"


@pytest.mark.parametrize(
    ("path", "value", "pointer", "code"),
    [
        ("modle", {}, "/modle", ProblemCode.UNKNOWN_FIELD),
        ("model/confg", {}, "/model/confg", ProblemCode.UNKNOWN_FIELD),
        ("model", 5, "/model", ProblemCode.INVALID_VALUE),
        ("loss", {"config": {}}, "/loss/component", ProblemCode.MISSING_FIELD),
        ("loss/component", "a b", "/loss/component", ProblemCode.INVALID_VALUE),
        ("training/epochs", "5", "/training/epochs", ProblemCode.INVALID_VALUE),
        ("training/epochs", True, "/training/epochs", ProblemCode.INVALID_VALUE),
        ("metrics", [3], "/metrics/0", ProblemCode.INVALID_VALUE),
        ("data/validation", 1.5, "/data/validation", ProblemCode.INVALID_VALUE),
        ("data/pipeline", [{"op": "window"}], "/data/pipeline/0", ProblemCode.INVALID_VALUE),
        ("data/pipeline", [{"op": "filter"}], "/data/pipeline/0/function", ProblemCode.MISSING_FIELD),
        (
            "data/pipeline",
            [{"op": "bucket_by_sequence_length", "bucket_boundaries": [5], "bucket_batch_sizes": [8]}],
            "/data/pipeline/0",
            ProblemCode.INVALID_VALUE,
        ),
        ("data/pipeline", [{"op": "batch", "batch_size": 0}], "/data/pipeline/0/batch_size", ProblemCode.INVALID_VALUE),
        ("data/pipeline", [{"op": "cast", "dtype": "float31"}], "/data/pipeline/0/dtype", ProblemCode.INVALID_VALUE),
        ("models", {"model": "mlp"}, "/model", ProblemCode.INVALID_VALUE),
        ("priority", 101, "/priority", ProblemCode.INVALID_VALUE),
        ("labels", {"a": 1}, "/labels/a", ProblemCode.INVALID_VALUE),
    ],
)
def test_a_refusal_points_into_the_users_own_document(path: str, value: Any, pointer: str, code: ProblemCode) -> None:
    found = refusals(with_value(path, value))
    assert [(f.pointer, f.code) for f in found] == [(pointer, code)]


def test_a_misspelt_field_is_answered_with_the_right_one() -> None:
    assert refusals(with_value("modle", {}))[0].hint == "Did you mean 'model'?"


def test_all_findings_come_at_once() -> None:
    document = with_value("training/epochs", "x")
    document["priority"] = "high"
    assert {f.pointer for f in refusals(document)} == {"/training/epochs", "/priority"}


@pytest.mark.parametrize("document", [[], "spec", 3, None])
def test_a_spec_is_an_object(document: Any) -> None:
    assert refusals(document)[0].code is ProblemCode.INVALID_SPEC


@pytest.mark.parametrize(
    "text",
    [b'{"a": NaN}', b'{"a": Infinity}', b'{"a": 1, "a": 2}', b'{"a": "\\u0000"}', b"\xff", b"{", b"", b"[" * 100_000],
)
def test_what_is_not_json_is_told_as_such(text: bytes) -> None:
    with pytest.raises(SpecInvalid) as refused:
        parse_json(text)
    assert refused.value.findings[0].code is ProblemCode.INVALID_JSON


def test_escaped_backslashes_are_not_taken_for_nul() -> None:
    assert parse_json(b'{"a": "\\\\u0000"}') == {"a": "\\u0000"}


def test_the_editor_schema_takes_both_forms() -> None:
    schema = editor_schema()
    jsonschema.validate(SMALLEST, schema)
    jsonschema.validate(parse_spec(SMALLEST).document(), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(with_value("modle", {}), schema)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)  # a busy machine is no failure
@given(place=st.sampled_from([*SMALLEST, "step", "export", "limits", "labels", "gradients"]), value=json_values)
def test_any_json_is_either_a_spec_or_findings_at_places_that_exist(place: str, value: Any) -> None:
    document = {**copy.deepcopy(SMALLEST), place: value}
    try:
        parse_spec(document)
    except SpecInvalid as refused:
        for finding in refused.findings:
            exists = finding.pointer == "" or finding.pointer.split("/")[1] in fold(document).document | document
            assert exists or finding.code is ProblemCode.MISSING_FIELD


def test_a_copy_is_its_origin_in_all_that_it_does_not_say() -> None:
    online = {"component": "mlp", "config": {"hidden": [4], "outputs": 2}, "adapt": [{"layer": "scaled"}]}
    data = {"source": "digits", "pipeline": [{"op": "batch", "batch_size": 8}]}
    models = {"target": {"copy_of": "online", "freeze": ["*"]}, "online": online}
    spec = parse_spec({"data": data, "models": models, "step": "acme/Step"})
    target, origin = spec.models["target"], spec.models["online"]
    assert (target.component, target.config, target.adapt) == (origin.component, origin.config, origin.adapt)
    assert (target.copy_of, target.freeze, origin.freeze) == ("online", ["*"], [])
