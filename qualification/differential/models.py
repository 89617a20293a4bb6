"""Random models: sequential, functional and subclassed; of vectors, several vectors, tokens and masked series."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from qualification.differential.choices import Choices
from qualification.differential.heads import Head, head
from qualification.differential.networks import HOOKS
from qualification.differential.parts import Part, layer, start
from tapeworks.references import Kind

STEPS, VOCABULARY = 5, 9
_WORDS = ("cat", "dog", "cow", "hen", "fox", "")


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


# ── layers ───────────────────────────────────────────────────────────────────────────────────────


def _regularizers(choices: Choices, *places: str) -> dict[str, Any]:
    kinds = (
        Part(Kind.REGULARIZER, "keras/L2", {"l2": 0.05}),
        Part(Kind.REGULARIZER, "keras/L1L2", {"l1": 0.01, "l2": 0.02}),
        Part(Kind.REGULARIZER, "keras/OrthogonalRegularizer", {"factor": 0.01, "mode": "columns"}),
    )
    return {
        f"{place}_regularizer": choices.one(kinds[: 2 if place != "kernel" else 3])
        for place in places
        if choices.chance(0.2)
    }


def _dense(choices: Choices, units: int, activation: str | None, **more: Any) -> Part:
    config = {"units": units, "activation": activation, "kernel_initializer": start(choices.integer(0, 99)), **more}
    config |= _regularizers(choices, "kernel", "bias", "activity")
    constraints = (
        Part(Kind.CONSTRAINT, "keras/MaxNorm", {"max_value": 0.8, "axis": 0}),
        Part(Kind.CONSTRAINT, "keras/NonNeg", {}),
        Part(Kind.CONSTRAINT, "keras/UnitNorm", {"axis": 0}),
    )
    config |= choices.config(0.1, kernel_constraint=constraints)
    config |= choices.config(0.1, use_bias=(False,))
    config |= choices.config(0.08, trainable=(False,)) if "name" not in more else {}
    return layer("Dense", **config)


def _body(choices: Choices) -> list[Part]:
    """Layers that keep a nest of vectors (n, …, features) one."""
    made = []
    for _ in range(choices.integer(1, 3)):
        activation = choices.one(("relu", "tanh", "gelu", None))
        options: tuple[Callable[[], Part], ...] = (
            lambda activation=activation: _dense(choices, choices.one((4, 6)), activation),  # type: ignore[misc]
            lambda activation=activation: _dense(choices, choices.one((4, 6)), activation),  # type: ignore[misc]
            lambda: layer(
                "BatchNormalization", **choices.config(0.5, momentum=(0.5,), scale=(False,), center=(False,))
            ),
            lambda: layer("LayerNormalization", **choices.config(0.4, epsilon=(0.01,))),
            lambda: layer("Dropout", rate=choices.one((0.0, 0.3)), seed=7),
            lambda: layer("GaussianNoise", stddev=0.1, seed=6),
            lambda: layer("BatchNormalization", trainable=False),
            lambda: layer("UnitNormalization"),
            lambda: layer("Rescaling", scale=0.5, offset=0.1),
            lambda: layer("ActivityRegularization", **choices.config(0.7, l1=(0.01,), l2=(0.02,))),
            lambda: layer("PReLU"),
            lambda: layer("differential/Shift", **choices.config(0.6, penalty=(0.1,))),
            lambda: layer("Activation", activation="swish"),
        )
        made.append(choices.one(options)())
    return made


def _recurrent(choices: Choices) -> Part:
    kind = choices.one(("LSTM", "GRU", "SimpleRNN"))
    orthogonal = Part(Kind.INITIALIZER, "keras/Orthogonal", {"seed": 3})
    config = {"units": 4, "kernel_initializer": start(5), "recurrent_initializer": orthogonal, "return_sequences": True}
    config |= choices.config(0.2, go_backwards=(True,))
    config |= choices.config(0.15, dropout=(0.2,))
    config |= {"seed": 8} if "dropout" in config else {}
    recurrent = layer(kind, **config, **_regularizers(choices, "kernel"))
    return layer("Bidirectional", layer=recurrent) if choices.chance(0.2) else recurrent


def _sequence_body(choices: Choices, *, tokens: bool) -> tuple[list[Part], bool]:
    """Layers over steps, and whether there are steps still at the end."""
    if tokens:
        embedding: dict[str, Any] = {"input_dim": VOCABULARY, "output_dim": 4, "mask_zero": choices.chance(0.75)}
        embedding |= {"embeddings_initializer": Part(Kind.INITIALIZER, "keras/RandomUniform", {"seed": 4})}
        made = [layer("Embedding", **embedding, **_regularizers(choices, "embeddings"))]
    else:
        made = [layer("Masking", mask_value=0.0)] if choices.chance(0.75) else []
    if choices.chance(0.6):
        made.append(_recurrent(choices))
    made += _body(choices) if choices.chance(0.6) else []
    if choices.chance(0.5):
        return made, True
    pooled = ["GlobalAveragePooling1D", "GlobalAveragePooling1D" if tokens else "Flatten"]
    return [*made, layer(choices.one(pooled))], False


def _image_body(choices: Choices) -> list[Part]:
    """Layers over images of whole numbers, to vectors."""
    convolution = {"filters": 3, "kernel_size": 3, "padding": choices.one(("same", "valid")), "activation": "relu"}
    layers = [
        layer("Rescaling", scale=0.004),
        layer(
            "Conv2D",
            **convolution,
            kernel_initializer=start(choices.integer(0, 99)),
            **_regularizers(choices, "kernel"),
        ),
        choices.one((layer("BatchNormalization"), layer("SpatialDropout2D", rate=0.2, seed=5), layer("ReLU"))),
        choices.one((layer("MaxPooling2D"), layer("AveragePooling2D", pool_size=2))),
    ]
    return [*layers, layer(choices.one(("Flatten", "GlobalAveragePooling2D")))]


def _word_body(choices: Choices) -> list[Part]:
    """Layers over texts, to vectors."""
    known = layer("StringLookup", vocabulary=list(_WORDS[:4]), **choices.config(0.4, num_oov_indices=(2,)))
    table = layer("Embedding", input_dim=7, output_dim=4, embeddings_initializer=start(choices.integer(0, 99)))
    return [known, table, layer("GlobalAveragePooling1D")]


# ── inputs ───────────────────────────────────────────────────────────────────────────────────────


def _vectors(random: np.random.Generator, rows: int) -> np.ndarray:
    return random.normal(size=(rows, 5))


def _tokens(random: np.random.Generator, rows: int) -> np.ndarray:
    drawn = random.integers(1, VOCABULARY, size=(rows, STEPS))
    return np.where(np.arange(STEPS) < random.integers(1, STEPS + 1, size=(rows, 1)), drawn, 0)


def _series(random: np.random.Generator, rows: int) -> np.ndarray:
    drawn = random.normal(size=(rows, STEPS, 3))
    return np.where((np.arange(STEPS) < random.integers(1, STEPS + 1, size=(rows, 1)))[..., None], drawn, 0.0)


def _images(random: np.random.Generator, rows: int) -> np.ndarray:
    return random.integers(0, 256, size=(rows, 6, 6, 2)).astype("uint8")


def _words(random: np.random.Generator, rows: int) -> np.ndarray:
    return np.array(_WORDS)[random.integers(0, len(_WORDS), size=(rows, STEPS))]


_INPUTS: dict[str, tuple[Any, tuple[int, ...], str | None]] = {
    "vector": (_vectors, (5,), None),
    "tokens": (_tokens, (STEPS,), "int64"),
    "series": (_series, (STEPS, 3), None),
    "images": (_images, (6, 6, 2), None),
    "words": (_words, (STEPS,), "string"),
}


def _trunk(choices: Choices) -> tuple[str, list[Part], bool]:
    """The kind of input, the layers after it, and whether steps are left at their end."""
    kind = choices.one(("vector", "vector", "vector", "tokens", "tokens", "series", "series", "images", "words"))
    if kind == "vector":
        known = [layer("Normalization", mean=[0.1] * 5, variance=[2.0] * 5)] if choices.chance(0.1) else []
        return kind, [*known, *_body(choices)], False
    if kind in ("images", "words"):
        return kind, _image_body(choices) if kind == "images" else _word_body(choices), False
    layers, sequence = _sequence_body(choices, tokens=kind == "tokens")
    return kind, layers, sequence


# ── styles ───────────────────────────────────────────────────────────────────────────────────────


def _sequential(choices: Choices) -> Model:
    kind, layers, sequence = _trunk(choices)
    only = head(choices, sequence=sequence)
    layers = [*layers, _dense(choices, only.width, only.activation, name="head")]
    inputs, shape, dtype = _INPUTS[kind]

    def made() -> Any:
        return keras.Sequential([keras.Input(shape, dtype=dtype), *(part.made() for part in layers)])

    component = {"component": "sequential", "config": {"layers": [part.reference() for part in layers]}}
    return Model("sequential", inputs, {"head": only}, "one", sequence, made, component, f"{kind} → {layers}")


def _functional(choices: Choices) -> Model:
    kind, layers, sequence = _trunk(choices)
    pairable = kind == "vector" and "Normalization(mean" not in str(layers)
    pair = choices.one(("list", "tuple", "dict")) if pairable and choices.chance(0.4) else None
    count = choices.one((1, 1, 2, 2, 3))
    structure = choices.one(("list", "tuple", "dict")) if count > 1 else choices.one(("one", "one", "dict", "list"))
    # The layers' names are not in the order of the outputs.
    names = choices.some(("b", "a", "zed"), count, count)
    heads = _heads(choices, names, sequence)
    ends = {name: _dense(choices, one.width, one.activation, name=name) for name, one in heads.items()}
    keys = {name: name if choices.chance(0.8) else f"key_{name}" for name in names} if structure == "dict" else {}
    inputs, shape, dtype = _INPUTS[kind]
    nested, frozen = choices.chance(0.2) and bool(layers), choices.chance(0.2)

    def nest(random: np.random.Generator, rows: int) -> Any:
        if pair is None:
            return inputs(random, rows)
        two = {"second": random.normal(size=(rows, 3)), "first": random.normal(size=(rows, 2))}
        return two if pair == "dict" else (list if pair == "list" else tuple)(two.values())

    def made() -> Any:
        if pair is None:
            given = x = keras.Input(shape, dtype=dtype)
        else:
            two = {"second": keras.Input((3,), name="second"), "first": keras.Input((2,), name="first")}
            given = two if pair == "dict" else list(two.values())
            x = keras.layers.Concatenate()(list(two.values()))
        if nested:
            x = keras.Sequential([part.made() for part in layers], name="inner")(x)
        else:
            for part in layers:
                x = part.made()(x)
        outputs = {name: end.made()(x) for name, end in ends.items()}
        if structure == "dict":
            given_outputs: Any = {keys[name]: output for name, output in outputs.items()}
        else:
            listed = list(outputs.values())
            given_outputs = listed[0] if structure == "one" else tuple(listed) if structure == "tuple" else listed
        model = keras.Model(given, given_outputs)
        if frozen:
            model.layers[1].trainable = False
        return model

    named = {keys.get(name, name): one for name, one in heads.items()}
    marks = " nested" * nested + " frozen" * frozen
    text = (
        f"{kind if pair is None else pair} → {layers}{marks} → {structure} of {list(ends.values())} keys {list(named)}"
    )
    return Model("functional", nest, named, structure, sequence, made, None, text)


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
    return Model(part.name, _vectors, heads, structure, False, part.made, part.reference(), str(part), penalized)
