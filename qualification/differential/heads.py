"""What an output predicts: its width and activation, labels for it, and the losses and metrics that suit it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from qualification.differential.choices import Choices
from qualification.differential.parts import Part, loss, metric

REDUCTIONS = ("sum_over_batch_size", "sum", "mean", "mean_with_sample_weight")
_AVERAGES = (None, "micro", "macro", "weighted")


@dataclass(frozen=True)
class Head:
    """One output."""

    task: str
    width: int
    activation: str | None
    labels: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
    """Labels of the shape (n,) or (n, steps), the output's width aside."""
    loss: Part | None
    metrics: list[Part]
    weighted: list[Part]


def head(choices: Choices, *, sequence: bool, tasks: tuple[str, ...] | None = None) -> Head:
    """A random head; of a sequence, it predicts something at each of its steps."""
    task = choices.one(tasks or tuple(_TASKS))
    return _TASKS[task](choices, sequence)


def _parts(choices: Choices, made: list[Part]) -> tuple[list[Part], list[Part]]:
    """Some metrics and some weighted metrics; sometimes one of them twice, as in both lists."""
    chosen = choices.some(made, 0, 3)
    different = {part.form if part.form not in ("instance", "function") else part.name: part for part in chosen}
    kept = list(different.values())
    cut = choices.integer(0, len(kept)) if choices.chance(0.5) else len(kept)
    # Keras numbers a second instance in the process, which a spec written by hand cannot know.
    named = [part for part in kept if part.form != "instance"]
    again = [choices.one(named)] if named and choices.chance(0.2) else []
    return kept[:cut], [*kept[cut:], *again]


def _reduced(choices: Choices, part: Part) -> Part:
    """Sometimes with a reduction or a name of its own."""
    if part.form != "instance":
        return part
    extra: dict[str, Any] = {}
    if choices.chance(0.35):
        extra["reduction"] = choices.one(REDUCTIONS)
    if choices.chance(0.1):
        extra["name"] = "my_loss"
    return Part(part.kind, part.name, {**part.config, **extra}, part.form)


def _regression(choices: Choices, sequence: bool) -> Head:
    width = choices.one((1, 1, 3))
    flat = width == 1 and not sequence and choices.chance(0.3)
    losses = [
        loss("MeanSquaredError"),
        loss("MeanSquaredError", "mse"),
        loss("MeanAbsoluteError", "mean_absolute_error"),
        loss("MeanAbsoluteError"),
        loss("Huber", **choices.config(0.7, delta=(0.3, 2.0))),
        loss("LogCosh"),
        loss("MeanAbsolutePercentageError"),
        loss("differential/Quantile", **choices.config(0.7, quantile=(0.2, 0.9))),
        loss("differential/quartic", "function"),
    ]
    if width > 1:
        losses.append(loss("CosineSimilarity", **choices.config(0.5, axis=(-1, 1))))
    metrics = [
        metric("MeanSquaredError", **choices.config(0.3, name=("squared",))),
        metric("MeanAbsoluteError", "mae"),
        metric("RootMeanSquaredError"),
        metric("MeanAbsolutePercentageError"),
        metric("LogCoshError"),
        metric("differential/LargestError", **choices.config(0.6, scale=(2.0,))),
        metric("differential/mean_bias", "function"),
    ]
    if not sequence and not flat:
        aggregation = (None, "uniform_average", "variance_weighted_average")
        metrics += [metric("R2Score", **choices.config(0.6, class_aggregation=aggregation))]
        metrics += [metric("CosineSimilarity", **choices.config(0.5, axis=(-1, 0)))]

    def labels(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return random.normal(size=shape if flat else (*shape, width)) + 0.5

    return Head("regression", width, None, labels, _reduced(choices, choices.one(losses)), *_parts(choices, metrics))


def _counts(choices: Choices, sequence: bool) -> Head:
    losses = [loss("Poisson"), loss("MeanSquaredLogarithmicError"), loss("Poisson", "poisson")]
    metrics = [metric("Poisson"), metric("MeanSquaredLogarithmicError"), metric("MeanSquaredError", "mse")]
    whole = choices.chance(0.5)

    def labels(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        drawn = random.poisson(2.0, size=(*shape, 2))
        return drawn if whole else drawn.astype("float64")

    return Head("counts", 2, "softplus", labels, _reduced(choices, choices.one(losses)), *_parts(choices, metrics))


def _binary(choices: Choices, sequence: bool) -> Head:
    logits = choices.chance(0.4)
    width = choices.one((1, 1, 3))
    flat = width == 1 and choices.chance(0.3) and not sequence
    from_logits = {"from_logits": True} if logits else {}
    smooth = choices.config(0.4, label_smoothing=(0.1, 0.3))
    losses = [
        loss("BinaryCrossentropy", **from_logits, **smooth),
        loss(
            "BinaryFocalCrossentropy",
            **from_logits,
            **smooth,
            **choices.config(0.5, apply_class_balancing=(True,), alpha=(0.3,), gamma=(1.0, 3.0)),
        ),
    ]
    losses += [loss("Hinge"), loss("SquaredHinge"), loss("Hinge", "hinge")] if logits else []
    losses += [] if logits else [loss("BinaryCrossentropy", "binary_crossentropy")]
    losses += [loss("Dice"), loss("Tversky", **choices.config(0.7, alpha=(0.3,), beta=(0.8,)))] if not flat else []
    metrics = [
        metric("BinaryAccuracy", **choices.config(0.5, threshold=(0.3, 0.0))),
        metric("BinaryAccuracy" if width == 1 else "CategoricalAccuracy", "accuracy"),  # as `compile` reads the word
    ]
    metrics += [] if flat else [metric("BinaryCrossentropy", **from_logits, **smooth)]
    if not logits:
        metrics += [
            metric("AUC", **choices.config(0.5, num_thresholds=(20,), curve=("PR",), summation_method=("majoring",))),
            metric("Precision", **choices.config(0.5, thresholds=(0.3, [0.2, 0.7]))),
            metric("Recall", **choices.config(0.5, thresholds=(0.3, [0.2, 0.7]))),
            metric("TruePositives"),
            metric("FalseNegatives", **choices.config(0.5, thresholds=(0.4,))),
            metric("SensitivityAtSpecificity", specificity=0.5),
        ]
    if width > 1 and not logits and not sequence:
        metrics += [
            metric("AUC", multi_label=True, num_labels=3),
            metric("F1Score", **choices.config(0.6, average=_AVERAGES), threshold=0.5),
            metric("FBetaScore", beta=2.0, threshold=0.5, **choices.config(0.6, average=_AVERAGES)),
        ]
    kind = choices.one(("int64", "float64", "int32", "bool")) if flat or width == 1 else "float64"

    def labels(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return random.integers(0, 2, size=shape if flat else (*shape, width)).astype(kind)

    activation = None if logits else "sigmoid"
    return Head("binary", width, activation, labels, _reduced(choices, choices.one(losses)), *_parts(choices, metrics))


def _categorical(choices: Choices, sequence: bool) -> Head:
    logits = choices.chance(0.4)
    from_logits = {"from_logits": True} if logits else {}
    smooth = choices.config(0.4, label_smoothing=(0.1, 0.3))
    losses = [
        loss("CategoricalCrossentropy", **from_logits, **smooth),
        loss(
            "CategoricalFocalCrossentropy", **from_logits, **smooth, **choices.config(0.5, alpha=(0.5,), gamma=(1.0,))
        ),
    ]
    if logits:
        losses += [loss("CategoricalHinge")]
    else:
        losses += [
            loss("CategoricalCrossentropy", "categorical_crossentropy"),
            loss("KLDivergence"),
            loss("KLDivergence", "kl_divergence"),
        ]
    metrics = [
        metric("CategoricalAccuracy", "accuracy"),
        metric("CategoricalAccuracy", **choices.config(0.3, name=("right",))),
        metric("TopKCategoricalAccuracy", k=2),
        metric("CategoricalCrossentropy", **from_logits, **smooth),
    ]
    if not logits and not sequence:
        metrics += [
            metric("F1Score", **choices.config(0.6, average=_AVERAGES)),
            metric("Precision", class_id=1, **choices.config(0.5, top_k=(2,))),
            metric("Recall", class_id=2),
            metric("AUC"),
            metric("KLDivergence"),
            metric("OneHotMeanIoU", num_classes=4),
        ]

    def labels(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return np.eye(4)[random.integers(0, 4, size=shape)]

    activation = None if logits else "softmax"
    return Head("categorical", 4, activation, labels, _reduced(choices, choices.one(losses)), *_parts(choices, metrics))


def _sparse(choices: Choices, sequence: bool) -> Head:
    logits = choices.chance(0.5)
    from_logits = {"from_logits": True} if logits else {}
    ignored = choices.one((None, None, 2, -1, 255)) if not choices.chance(0.5) else None
    ignore = {} if ignored is None else {"ignore_class": ignored}
    losses = [loss("SparseCategoricalCrossentropy", **from_logits, **ignore)]
    if not logits and ignored is None:
        losses += [loss("SparseCategoricalCrossentropy", "sparse_categorical_crossentropy")]
    metrics = [
        metric("SparseCategoricalAccuracy", "accuracy"),
        metric("SparseCategoricalAccuracy"),
        metric("SparseTopKCategoricalAccuracy", k=2),
    ]
    if ignored is None or ignored == 2:
        metrics += [metric("SparseCategoricalCrossentropy", **from_logits, **ignore)]
        metrics += [metric("MeanIoU", num_classes=4, sparse_y_pred=False)]
    kind = choices.one(("int64", "int32", "float64", "uint8")) if ignored != -1 else "int32"
    column = choices.chance(0.2)

    def labels(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        drawn = random.integers(0, 4, size=(*shape, 1) if column else shape)
        if ignored is not None:
            drawn = np.where(random.random(drawn.shape) < 0.3, ignored, drawn)
        return drawn.astype(kind)

    activation = None if logits else "softmax"
    return Head("sparse", 4, activation, labels, _reduced(choices, choices.one(losses)), *_parts(choices, metrics))


_TASKS: dict[str, Callable[[Choices, bool], Head]] = {
    "regression": _regression,
    "counts": _counts,
    "binary": _binary,
    "categorical": _categorical,
    "sparse": _sparse,
}
