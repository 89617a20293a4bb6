"""Random models: sequential, functional and subclassed; of vectors, several vectors, tokens and masked series."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from qualification.differential.choices import Choices
from qualification.differential.heads import Head, head
from qualification.differential.inputs import INPUTS
from qualification.differential.layers import dense, trunk
from qualification.differential.networks import HOOKS
from qualification.differential.parts import Part
from tapeworks.spec.references import Kind


@dataclass(frozen=True)
class Model:
    """How a model is made, what it takes and gives."""

    style: str
    inputs: Callable[[np.random.Generator, int], Any]
    """A nest of arrays for a number of rows."""
    heads: dict[str, Head]
    structure: str
    """Of the outputs: `one`, `list`, `tuple` or `dict`."""
    sequence: bool
    """Whether an output is of the shape (n, steps, width)."""
    made: Callable[[], Any]
    component: dict[str, Any] | None
    """The model in a spec written by hand; None where only `from_keras` writes it."""
    text: str
    penalized: bool = False
    """Whether it has a loss of its own that reaches its first layer."""


def model(choices: Choices) -> Model:
    """A random model."""
    return choices.one((_sequential, _sequential, _functional, _functional, _functional, _subclassed))(choices)


# ── styles ───────────────────────────────────────────────────────────────────────────────────────


def _sequential(choices: Choices) -> Model:
    kind, layers, sequence = trunk(choices)
    only = head(choices, sequence=sequence)
    layers = [*layers, dense(choices, only.width, only.activation, name="head")]
    taken = INPUTS[kind]

    def made() -> Any:
        return keras.Sequential([keras.Input(taken.shape, dtype=taken.dtype), *(part.made() for part in layers)])

    component = {"component": "sequential", "config": {"layers": [part.reference() for part in layers]}}
    return Model("sequential", taken.arrays, {"head": only}, "one", sequence, made, component, f"{kind} → {layers}")


def _functional(choices: Choices) -> Model:
    kind, layers, sequence = trunk(choices)
    pairable = kind == "vector" and "Normalization(mean" not in str(layers)
    pair = choices.one(("list", "tuple", "dict")) if pairable and choices.chance(0.4) else None
    count = choices.one((1, 1, 2, 2, 3))
    structure = choices.one(("list", "tuple", "dict")) if count > 1 else choices.one(("one", "one", "dict", "list"))
    # The layers' names are not in the order of the outputs.
    names = choices.some(("b", "a", "zed"), count, count)
    heads = _heads(choices, names, sequence)
    ends = {name: dense(choices, one.width, one.activation, name=name) for name, one in heads.items()}
    keys = {name: name if choices.chance(0.8) else f"key_{name}" for name in names} if structure == "dict" else {}
    taken = INPUTS[kind]
    nested, frozen = choices.chance(0.2) and bool(layers), choices.chance(0.2)

    def nest(random: np.random.Generator, rows: int) -> Any:
        if pair is None:
            return taken.arrays(random, rows)
        two = {"second": random.normal(size=(rows, 3)), "first": random.normal(size=(rows, 2))}
        return two if pair == "dict" else (list if pair == "list" else tuple)(two.values())

    def made() -> Any:
        if pair is None:
            given = x = keras.Input(taken.shape, dtype=taken.dtype)
        else:
            two = {"second": keras.Input((3,), name="second"), "first": keras.Input((2,), name="first")}
            given = two if pair == "dict" else list(two.values())
            x = keras.layers.Concatenate()(list(two.values()))
        inner = [part.made() for part in layers]
        for one in [keras.Sequential(inner, name="inner")] if nested else inner:
            x = one(x)
        outputs = {keys.get(name, name): end.made()(x) for name, end in ends.items()}
        model = keras.Model(given, _structured(structure, outputs))
        if frozen:
            model.layers[1].trainable = False
        return model

    named = {keys.get(name, name): one for name, one in heads.items()}
    marks = " nested" * nested + " frozen" * frozen
    text = (
        f"{kind if pair is None else pair} → {layers}{marks} → {structure} of {list(ends.values())} keys {list(named)}"
    )
    return Model("functional", nest, named, structure, sequence, made, None, text)


def _structured(structure: str, outputs: dict[str, Any]) -> Any:
    """Outputs by name in the structure of that name."""
    if structure == "dict":
        return outputs
    listed = list(outputs.values())
    return listed[0] if structure == "one" else tuple(listed) if structure == "tuple" else listed


def _heads(choices: Choices, names: list[str], sequence: bool) -> dict[str, Head]:
    """A head for each output; sometimes one and the same, so that one loss suits all."""
    if choices.chance(0.3):
        return dict.fromkeys(names, head(choices, sequence=sequence))
    return {name: head(choices, sequence=sequence) for name in names}


def _subclassed(choices: Choices) -> Model:
    count = choices.one((1, 1, 2))
    structure = choices.one(("list", "tuple", "dict")) if count > 1 else choices.one(("one", "one", "dict"))
    names = choices.some(("b", "a", "zed"), count, count)
    heads = _heads(choices, names, False)
    widths = [one.width for one in heads.values()]
    activations = [one.activation for one in heads.values()]
    config = {"widths": widths, "names": names, "activations": activations, "structure": structure}
    config |= choices.config(0.3, penalty=(0.1,), normalize=(True,), hidden=(3,))
    part = Part(Kind.MODEL, f"differential/{choices.one(HOOKS)}", config)
    penalized = "penalty" in config and part.name != "differential/OwnLoss"
    arrays = INPUTS["vector"].arrays
    return Model(part.name, arrays, heads, structure, False, part.made, part.reference(), str(part), penalized)
