"""Schemas of uploaded components cannot hold the service, and a spec of many mistakes is answered at once."""

import time
from typing import Any

import pytest

from tapeworks.errors import SpecInvalid
from tapeworks.schemas.jobs import ComponentEntry
from tapeworks.spec.parsing import MAX_FINDINGS, parse_spec
from tapeworks.spec.references import Kind
from tapeworks_service.catalogue.catalogue import Catalogue, IndexedCatalogue
from tapeworks_service.catalogue.config_validation import config_findings, kind_in_schema
from tapeworks_service.catalogue.schema_limits import MAX_NODES, SchemaRefused, check_schema
from tapeworks_service.catalogue.uploaded_packages import entries_of

DOUBLING = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"$ref": f"#/$defs/d{n + 1}"}]} for n in range(20)}
NAMED = {"type": "object", "properties": {"a": {"$ref": "#/$defs/d0"}}}


def entry(schema: Any) -> dict[str, Any]:
    told = {"kind": "loss", "name": "evil/Loss", "version": "1", "digest": "0" * 64, "config_schema": schema}
    return {**told, "doc": "", "roles": None, "batched": None, "warnings": []}


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({**NAMED, "$defs": {**DOUBLING, "d20": {"type": "integer"}}}, f"more than {MAX_NODES} parts"),
        ({**NAMED, "$defs": {"d0": {"anyOf": [{"$ref": "#/$defs/d0"}]}}}, "refers to itself"),
        ({**NAMED, "$defs": {"d0": {"$ref": "#/$defs/d1"}, "d1": {"$ref": "#/$defs/d0"}}}, "refers to itself"),
        ({**NAMED, "$defs": {}}, "not in its $defs"),
        ({**NAMED, "$defs": ["d0"]}, "not a JSON object"),
        ({"properties": {"a": {"type": "whole"}}}, "not a valid JSON Schema"),
        ({"properties": ["a"]}, "not a valid JSON Schema"),
        ({"type": "object", "required": "a"}, "not a valid JSON Schema"),
        ({"items": {"enum": "a", "minimum": "b"}}, "not a valid JSON Schema"),
    ],
)
def test_a_schema_that_costs_too_much_keeps_its_component_out(schema: Any, reason: str) -> None:
    began = time.process_time()
    entries, refused = entries_of({"result": {"components": [entry(schema)]}}, "1.0")
    assert time.process_time() - began < 2
    assert entries == []
    assert reason in refused[0]["reason"]
    assert refused[0]["name"] == "evil/Loss"


def test_a_schema_of_authoring_is_taken() -> None:
    own = {"type": "object", "properties": {"a": {"$ref": "#/$defs/d0"}, "b": {"$ref": "#/$defs/d0"}}}
    check_schema({**own, "$defs": {"d0": {"type": "array", "items": {"type": "integer"}}}})
    nested: Any = {"type": "integer"}
    for _ in range(200):
        nested = {"items": nested}
    with pytest.raises(SchemaRefused, match="nested more than"):
        check_schema(nested)


@pytest.mark.parametrize("schema", [{"properties": []}, {"properties": {"a": {"x-kind": "spoon"}}}, {"$defs": 3}, {}])
def test_a_schema_of_any_form_is_no_error_of_ours(schema: Any) -> None:
    assert kind_in_schema(schema, "a") is None
    known = ComponentEntry.model_validate(entry({"$ref": "#/nowhere", **schema}))
    catalogue = Catalogue()
    catalogue.add(IndexedCatalogue((known,), frozenset()), "worker")
    assert catalogue.find(Kind.LOSS, "evil/Loss") is known
    found = list(config_findings(catalogue, known, {"a": 1}, "/loss/config"))
    assert [finding.pointer for finding in found] == ["/loss/config"]


def test_a_spec_of_thousands_of_unknown_fields_is_answered_at_once() -> None:
    unknown = {f"unknown_{n}": {} for n in range(3_000)}
    spec = {"data": {"source": "digits", **unknown}, "training": {"execution": unknown}, "model": "mlp"}
    began = time.process_time()
    with pytest.raises(SpecInvalid) as refused:
        parse_spec(spec)
    assert time.process_time() - began < 2
    assert len(refused.value.findings) == MAX_FINDINGS
