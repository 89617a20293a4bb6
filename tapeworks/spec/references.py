"""References to components: the one way in which a spec names code.

`{"component": NAME, "version": "1", "config": {…}}`; at the spec's own places a bare string is
the same with an empty config. Inside a config only an object with the key `component` is a
reference; strings there are literals.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from tapeworks.bounds import InConfig


class Kind(StrEnum):
    """What a component is; (kind, name) is its key."""

    LOSS = "loss"
    METRIC = "metric"
    LAYER = "layer"
    MODEL = "model"
    REGULARIZER = "regularizer"
    CONSTRAINT = "constraint"
    INITIALIZER = "initializer"
    OPTIMIZER = "optimizer"
    SCHEDULE = "schedule"
    STEP = "step"
    GRADIENT_TRANSFORM = "gradient_transform"
    TRANSFORM = "transform"
    DATASET_FUNCTION = "dataset_function"
    SOURCE = "source"
    EVALUATOR = "evaluator"
    CALLBACK = "callback"


COMPONENT_NAME = r"^[A-Za-z_][A-Za-z0-9_.-]*(/[A-Za-z_][A-Za-z0-9_.-]*)?$"


def from_name(value: Any) -> Any:
    """A bare string is a reference with an empty config."""
    return {"component": value} if isinstance(value, str) else value


class ReferenceFields(BaseModel):
    """The fields of a reference; places that add keys of their own inherit these."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    component: Annotated[str, Field(pattern=COMPONENT_NAME, max_length=200)]
    """`focal`, `keras/Adam`, `package/Name`."""
    version: str | None = None
    """None: resolved when the job is submitted."""
    config: Annotated[dict[str, JsonValue], InConfig] = Field(default_factory=dict)
    """Arguments of the component's `__init__`."""


Reference = Annotated[ReferenceFields, BeforeValidator(from_name, json_schema_input_type=str | ReferenceFields)]


@dataclass(frozen=True)
class Nested:
    """A reference found inside a config."""

    pointer: str
    """RFC 6901 pointer from the config's root, e.g. `/layers/0/config/kernel_regularizer`."""
    argument: str
    """The argument that holds it (`kernel_regularizer`), through lists and dicts."""
    value: dict[str, Any]


def escape(key: str) -> str:
    """One RFC 6901 reference token."""
    return key.replace("~", "~0").replace("/", "~1")


def is_reference(value: Any) -> bool:
    """Whether a value inside a config names a component."""
    return isinstance(value, dict) and isinstance(value.get("component"), str)


def nested_references(config: dict[str, Any], pointer: str = "") -> Iterator[Nested]:
    """The references directly inside a config (not those inside their configs), in document order."""

    def walk(value: Any, at: str, argument: str) -> Iterator[Nested]:
        if is_reference(value):
            yield Nested(at, argument, value)
        elif isinstance(value, dict):
            for key, item in value.items():
                yield from walk(item, f"{at}/{escape(key)}", argument)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                yield from walk(item, f"{at}/{index}", argument)

    for key, value in config.items():
        yield from walk(value, f"{pointer}/{escape(key)}", key)


_KINDS_BY_SUFFIX = {
    "regularizer": Kind.REGULARIZER, "constraint": Kind.CONSTRAINT, "initializer": Kind.INITIALIZER,
    "learning_rate": Kind.SCHEDULE, "schedule": Kind.SCHEDULE, "layer": Kind.LAYER, "layers": Kind.LAYER,
    "cell": Kind.LAYER, "cells": Kind.LAYER, "optimizer": Kind.OPTIMIZER, "loss": Kind.LOSS,
    "activation": Kind.LAYER, "normalization": Kind.LAYER,
}  # fmt: skip


def kind_of_argument(argument: str) -> Kind | None:
    """The kind that an argument of that name takes, by Keras' own naming: `kernel_regularizer` → regularizer.

    None where the name does not say; the catalogue then looks among all kinds.
    """
    for suffix, kind in _KINDS_BY_SUFFIX.items():
        if argument == suffix or argument.endswith("_" + suffix):
            return kind
    return None
