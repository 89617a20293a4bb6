"""Random layers between a model's input and its outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qualification.differential.choices import Choices
from qualification.differential.inputs import VOCABULARY, WORDS
from qualification.differential.parts import Part, layer, start
from tapeworks.spec.references import Kind


def trunk(choices: Choices) -> tuple[str, list[Part], bool]:
    """The kind of input, the layers after it, and whether steps are left at their end."""
    kind = choices.one(("vector", "vector", "vector", "tokens", "tokens", "series", "series", "images", "words"))
    if kind == "vector":
        known = [layer("Normalization", mean=[0.1] * 5, variance=[2.0] * 5)] if choices.chance(0.1) else []
        return kind, [*known, *_body(choices)], False
    if kind in ("images", "words"):
        return kind, _image_body(choices) if kind == "images" else _word_body(choices), False
    layers, sequence = _sequence_body(choices, tokens=kind == "tokens")
    return kind, layers, sequence


def _regularizers(choices: Choices, *places: str) -> dict[str, Any]:
    kinds = (
        Part(Kind.REGULARIZER, "keras/L2", {"l2": 0.05}),
        Part(Kind.REGULARIZER, "keras/L1L2", {"l1": 0.01, "l2": 0.02}),
        Part(Kind.REGULARIZER, "keras/OrthogonalRegularizer", {"factor": 0.01, "mode": "rows"}),
    )
    return {
        f"{place}_regularizer": choices.one(kinds[: 2 if place != "kernel" else 3])
        for place in places
        if choices.chance(0.2)
    }


def dense(choices: Choices, units: int, activation: str | None, **more: Any) -> Part:
    config = {"units": units, "activation": activation, "kernel_initializer": start(choices.integer(0, 99)), **more}
    config |= _regularizers(choices, "kernel", "bias", "activity")
    kernel = config["kernel_initializer"], config.get("kernel_regularizer")
    if all(isinstance(one, Part) and "Orthogonal" in one.name for one in kernel):
        # Rows are orthogonal but for rounding, and the gradient of the penalty is the sign of that.
        del config["kernel_regularizer"]
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
            lambda activation=activation: dense(choices, choices.one((4, 6)), activation),  # type: ignore[misc]
            lambda activation=activation: dense(choices, choices.one((4, 6)), activation),  # type: ignore[misc]
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
            **_regularizers(choices, "bias", "activity"),
        ),
        choices.one((layer("BatchNormalization"), layer("SpatialDropout2D", rate=0.2, seed=5), layer("ReLU"))),
        choices.one((layer("MaxPooling2D"), layer("AveragePooling2D", pool_size=2))),
    ]
    return [*layers, layer(choices.one(("Flatten", "GlobalAveragePooling2D")))]


def _word_body(choices: Choices) -> list[Part]:
    """Layers over texts, to vectors."""
    known = layer("StringLookup", vocabulary=list(WORDS[:4]), **choices.config(0.4, num_oov_indices=(2,)))
    table = layer("Embedding", input_dim=7, output_dim=4, embeddings_initializer=start(choices.integer(0, 99)))
    return [known, table, layer("GlobalAveragePooling1D")]
