"""Keras' own classes that a spec may name, and the arguments they take.

Interface: `keras_class(kind, "keras/Dense")`, `refusal(kind, name)` says why there is none, `arguments_of(cls, kind)`,
`keras_entries()` for the catalogue.

Public classes of the modules in `KERAS_MODULES`, less those that carry code in their config
(`Lambda`) or another framework's. Keras annotates nothing: names are checked, values are Keras' to refuse.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import inspect
from typing import Any

import keras
from pydantic import JsonValue

from tapeworks.components.config_schema import base_arguments
from tapeworks.schemas.jobs import ComponentEntry
from tapeworks.spec.references import Kind

KERAS_MODULES: dict[Kind, tuple[Any, type]] = {
    Kind.LAYER: (keras.layers, keras.layers.Layer),
    Kind.LOSS: (keras.losses, keras.losses.Loss),
    Kind.METRIC: (keras.metrics, keras.metrics.Metric),
    Kind.OPTIMIZER: (keras.optimizers, keras.optimizers.Optimizer),
    Kind.SCHEDULE: (keras.optimizers.schedules, keras.optimizers.schedules.LearningRateSchedule),
    Kind.REGULARIZER: (keras.regularizers, keras.regularizers.Regularizer),
    Kind.INITIALIZER: (keras.initializers, keras.initializers.Initializer),
    Kind.CONSTRAINT: (keras.constraints, keras.constraints.Constraint),
}
REFUSED = frozenset({"Lambda", "TFSMLayer", "JaxLayer", "FlaxLayer", "TorchModuleWrapper"})
FILE_ARGUMENTS = frozenset({"vocabulary", "idf_weights"})
"""Arguments of preprocessing layers whose strings Keras opens as files."""

FORGET_MIXED_PRECISION = frozenset({"Discretization", "HashedCrossing"})
"""Layers whose config holds their variable dtype in the place of a mixed policy: they would come back with another."""

TUPLES = frozenset({"ngrams"})
"""Arguments that Keras takes as tuples only, which JSON does not have."""


@functools.cache
def _classes(kind: Kind) -> dict[str, type]:
    module, base = KERAS_MODULES[kind]
    return {
        name: member
        for name, member in sorted(vars(module).items())
        if inspect.isclass(member)
        and issubclass(member, base)
        and member is not base
        and member.__name__ not in REFUSED
        and not name.startswith("_")
    }


def keras_class(kind: Kind, name: str) -> type | None:
    """The class that `keras/Name` means at a place of this kind, or None."""
    return _classes(kind).get(name.removeprefix("keras/")) if kind in KERAS_MODULES else None


def refusal(kind: Kind, name: str) -> str:
    """Why `keras_class` gives None."""
    bare = name.removeprefix("keras/")
    if bare in REFUSED:
        return f"{name} is not accepted: it carries code or another framework's model. Register a component instead"
    if kind not in KERAS_MODULES:
        return f"Keras has no public {kind} classes: {name!r}"
    close = difflib.get_close_matches(bare, _classes(kind), n=3)
    hint = f"; did you mean {', '.join(f'keras/{one}' for one in close)}?" if close else ""
    return f"Keras has no public {kind} class {bare!r}{hint}"


def arguments_of(cls: type, kind: Kind) -> dict[str, bool]:
    """Argument → whether it must be given; `**kwargs` stands for what the base of the kind takes."""
    parameters = inspect.signature(cls).parameters.values()
    names = {
        one.name: one.default is inspect.Parameter.empty
        for one in parameters
        if one.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    }
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
        names = {**dict.fromkeys(sorted(base_arguments(kind)), False), **names}
    return names


def keras_entries() -> list[ComponentEntry]:
    """Catalogue entries of every class that `keras/Name` may mean."""
    digest = hashlib.sha256(f"keras {keras.__version__}".encode()).hexdigest()
    return [
        ComponentEntry(
            kind=kind,
            name=f"keras/{name}",
            digest=digest,
            config_schema=_schema(cls, kind),
            doc=_first_paragraph(cls),
        )
        for kind in KERAS_MODULES
        for name, cls in _classes(kind).items()
    ]


def _schema(cls: type, kind: Kind) -> dict[str, JsonValue]:
    names = arguments_of(cls, kind)
    schema: dict[str, JsonValue] = {
        "type": "object",
        "properties": {name: {} for name in names},
        "additionalProperties": False,
    }
    required: list[JsonValue] = [name for name, needed in names.items() if needed]
    return {**schema, "required": required} if required else schema


def _first_paragraph(cls: type) -> str:
    return inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
