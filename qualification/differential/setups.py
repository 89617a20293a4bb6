"""A set-up: a model, its data, what `compile` is given and how it is run; all of it from one seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from qualification.differential.choices import Choices
from qualification.differential.inputs import STEPS
from qualification.differential.models import Model, model
from qualification.differential.optimizers import optimizer
from qualification.differential.parts import Part

BATCH = 8
_ONE_PRECISION = ("activity_regularizer", "ActivityRegularization", "OrthogonalRegularizer", "penalty", "TopK")
"""Of these, Keras 3.15 mixes dtypes in any precision but float32, and fails."""
_CLASS_WEIGHT = {0: 0.5, 1: 2.0, 2: 1.0, 3: 0.0}


@dataclass(frozen=True)
class Setup:
    """Everything that one seed says. Nests of arrays are float64, int or bool; each side casts them as users' are."""

    seed: int
    precision: str
    epochs: int
    model: Model
    optimizer: Part
    loss: Any
    """A nest of parts as `compile` takes it; None: the model's own losses."""
    loss_weights: Any
    metrics: Any
    weighted_metrics: Any
    training: tuple[Any, ...]
    """(x, y) or (x, y, sample_weight)."""
    validation: tuple[Any, ...] | None
    from_arrays: bool
    """Whether `fit` is given arrays; else a tf.data.Dataset."""
    by_hand: bool
    """Whether the spec is written by hand; else by `from_keras`."""
    plan: str
    steps_per_epoch: int | None
    """Of a training set that is repeated; None: a pass is an epoch."""
    class_weight: dict[int, float] | None
    """Given to `fit`; a spec has weights of examples."""

    def compile_arguments(self) -> dict[str, Any]:
        """Fresh objects for `compile`."""
        given = {
            "optimizer": self.optimizer,
            "loss": self.loss,
            "loss_weights": self.loss_weights,
            "metrics": self.metrics,
            "weighted_metrics": self.weighted_metrics,
        }
        return {name: _made(value) for name, value in given.items() if value is not None}

    def lines(self) -> list[str]:
        """The set-up for a reader."""
        shapes = keras.tree.map_structure(lambda array: f"{array.dtype}{list(array.shape)}", self.training)
        return [
            f"seed {self.seed}: {self.precision}, {self.epochs} epochs, plan {self.plan}, "
            f"fit from {'arrays' if self.from_arrays else 'a dataset'}, steps {self.steps_per_epoch}, "
            f"class weight {self.class_weight}, "
            f"spec {'by hand' if self.by_hand else 'by from_keras'}",
            f"  model {self.model.style}: {self.model.text}",
            f"  optimizer {self.optimizer}",
            f"  loss {self.loss}, weights {self.loss_weights}",
            f"  metrics {self.metrics}, weighted {self.weighted_metrics}",
            f"  data {shapes}, validation {'none' if self.validation is None else len(_first(self.validation))}",
        ]


def setup(seed: int) -> Setup:
    """The set-up of a seed."""
    made = model(Choices(seed, "model"))
    updates = optimizer(Choices(seed, "optimizer"), sparse="Embedding" in made.text)
    compiled, run = Choices(seed, "compile"), Choices(seed, "run")
    random = np.random.default_rng(seed)
    rows, weighting = run.integer(10, 48), _weighting(Choices(seed, "weights"), made)
    loss, weights = _loss(compiled, made)
    if made.penalized and run.chance(0.5):
        loss = weights = None  # the model's own loss is all there is
    metrics, weighted = (_metrics(compiled, made, place) for place in ("metrics", "weighted"))
    validation = _split(random, made, run.integer(5, 20), weighting) if run.chance(0.5) else None
    from_arrays = run.chance(0.5) and not made.text.startswith("words")  # Keras takes no arrays of texts
    by_hand = run.chance(0.5) and _writable(made, loss, weights)
    precision = run.one(_precisions(made, updates))
    # XLA keeps more digits between the operations of a half precision.
    fused = () if precision.startswith("mixed") else ("fused",)
    limited, classes = run.chance(0.2), run.chance(0.3)
    return Setup(
        seed=seed,
        precision=precision,
        epochs=run.integer(2, 3),
        model=made,
        optimizer=updates,
        loss=loss,
        loss_weights=weights,
        metrics=metrics,
        weighted_metrics=weighted,
        training=_split(random, made, rows, weighting),
        validation=validation,
        from_arrays=from_arrays,
        by_hand=by_hand and updates.change is None,  # no spec says what was called on an optimizer
        plan=run.one(("steps",) * 5 + ("loop",) * 3 + fused),
        steps_per_epoch=run.integer(1, 4) if limited and not from_arrays else None,
        class_weight=_CLASS_WEIGHT if classes and weighting is None and _classifies(made) else None,
    )


def _precisions(made: Model, updates: Part) -> tuple[str, ...]:
    """Those in which `fit` trains the model."""
    measured = str([[*one.metrics, *one.weighted] for one in made.heads.values()])
    if any(name in made.text or name in measured for name in _ONE_PRECISION):
        return ("float32",)
    usual = ("float32",) * 6 + ("float64", "mixed_bfloat16")
    # In mixed_float16 Keras' LossScaleOptimizer never calls `apply_gradients` of the optimizer that it wraps.
    return usual if updates.name == "differential/Signed" else (*usual, "mixed_float16")


# ── what compile is given ────────────────────────────────────────────────────────────────────────


def _loss(choices: Choices, made: Model) -> tuple[Any, Any]:
    """A loss and its weights."""
    parts = {name: one.loss for name, one in made.heads.items()}
    if len(parts) == 1:
        (only,) = parts.values()
        by_name = made.structure == "dict" and choices.chance(0.5)
        weight = choices.one((None, None, None, 0.5))
        if by_name:
            return parts, None if weight is None else dict.fromkeys(parts, weight)
        return only, weight
    same = len({id(one) for one in made.heads.values()}) == 1
    if same and choices.chance(0.6):
        return next(iter(parts.values())), None
    weights: dict[str, float] | None = None
    if choices.chance(0.5):
        weights = {name: choices.one((0.5, 1.0, 2.0, 0.0)) for name in parts}
    if choices.chance(0.15):
        parts[choices.one(list(parts))] = None
    if made.structure == "dict" or (made.style == "functional" and choices.chance(0.3)):
        return parts, weights
    return list(parts.values()), None if weights is None else list(weights.values())


def _metrics(choices: Choices, made: Model, place: str) -> Any:
    parts = {name: list(getattr(one, place)) for name, one in made.heads.items()}
    if not any(parts.values()):
        return None
    if len(parts) == 1:
        return next(iter(parts.values()))
    if made.structure == "dict" or (made.style == "functional" and choices.chance(0.5)):
        return {name: listed for name, listed in parts.items() if listed}
    return list(parts.values())


def _writable(made: Model, loss: Any, weights: Any) -> bool:
    """Whether a user could write the same spec by hand, with what this fuzzer knows of specs."""
    if made.component is None or loss is None:
        return False
    return made.structure in ("one", "dict") and not (made.structure == "dict" and not isinstance(loss, Mapping))


def _classifies(made: Model) -> bool:
    """Whether `fit` takes class weights: one output, an integer label for each row."""
    heads = list(made.heads.values())
    return made.structure == "one" and len(heads) == 1 and heads[0].task == "sparse" and not made.sequence


# ── data ─────────────────────────────────────────────────────────────────────────────────────────


def _weighting(choices: Choices, made: Model) -> str | None:
    """How examples are weighted."""
    kinds: list[str | None] = [None, None, None]
    if len(made.heads) > 1:
        kinds += ["outputs"] if made.sequence else ["rows", "outputs"]
    else:
        kinds += ["steps", "steps"] if made.sequence else ["rows", "column"]
    return choices.one(kinds)


def _split(random: np.random.Generator, made: Model, rows: int, weighting: str | None) -> tuple[Any, ...]:
    shape = (rows, STEPS) if made.sequence else (rows,)
    x = made.inputs(random, rows)
    y = _packed(made, {name: one.labels(random, shape) for name, one in made.heads.items()})
    if weighting is None:
        return x, y
    if weighting == "outputs":
        return x, y, _packed(made, {name: random.uniform(0.0, 2.0, size=shape) for name in made.heads})
    sizes = {"rows": (rows,), "steps": (rows, STEPS), "column": (rows, 1)}
    return x, y, random.uniform(0.0, 2.0, size=sizes[weighting])


def _packed(made: Model, named: dict[str, Any]) -> Any:
    if made.structure == "one":
        return next(iter(named.values()))
    return named if made.structure == "dict" else list(named.values())


def _first(split: tuple[Any, ...]) -> Any:
    return keras.tree.flatten(split[0])[0]


def _made(value: Any) -> Any:
    if isinstance(value, Part):
        return value.made()
    if isinstance(value, Mapping):
        return {key: _made(item) for key, item in value.items()}
    return [_made(item) for item in value] if isinstance(value, list) else value
