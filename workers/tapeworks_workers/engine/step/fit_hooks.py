"""The hooks of `fit` that a model may override, called as Keras' own training step calls them (keras 3.15).

`compute_loss`, `compute_metrics`, `get_metrics_result`, `metrics` and `reset_metrics` are the model's own where its
class, or the object, defines them. While one of them runs the model looks compiled: `super().compute_loss(…)` gives the
spec's loss, `super().compute_metrics(…)` feeds the spec's metrics, and `self.optimizer` is the optimizer of the spec.
The table of all hooks is in docs/keras-hooks.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tapeworks.components.interfaces import TrainingStep
from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.engine.diagnostics import source_locations as places
from tapeworks_workers.engine.diagnostics.retracing import Note
from tapeworks_workers.engine.step import metrics as spec_metrics
from tapeworks_workers.engine.step.metrics import RoleMetric

_SHIPPED = "tapeworks_workers"
_OF_METRICS = ("compute_metrics", "get_metrics_result", "metrics")
_COMPILED = ("compiled", "loss", "optimizer", "_compile_loss", "_compile_metrics", "_loss_tracker")
"""What `compile` sets and Keras' own hooks read."""


def overrides(model: keras.Model, *hooks: str) -> bool:
    """Whether a model has one of the hooks from its author: by its class, or set on the object."""
    return any(hook in vars(model) or getattr(type(model), hook) is not getattr(keras.Model, hook) for hook in hooks)


class SpecCompilation:
    """The parts of a spec that `compile` would give to one model."""

    def __init__(
        self,
        model: keras.Model,
        *,
        loss: Any,
        metrics: Sequence[RoleMetric],
        optimizer: Any,
        update: Callable[..., None],
    ) -> None:
        self._model = model
        self._loss = None if loss is None else _CompiledLoss(loss)
        self._metrics = _CompiledMetrics(metrics, update)
        self._optimizer = optimizer

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The model as `compile` would leave it, inside the block: its exported file must not hold these."""
        attributes = vars(self._model)  # past Keras' tracking, which would take them for parts of the model
        before = {name: attributes[name] for name in _COMPILED if name in attributes}
        values = (True, self._loss, self._optimizer, self._loss, self._metrics, None)
        attributes.update(zip(_COMPILED, values, strict=True))
        try:
            yield
        finally:
            for name in _COMPILED:
                attributes.pop(name, None)
            attributes.update(before)

    def compute_loss(self, x: Any, y: Any, y_pred: Any, sample_weight: Any, training: bool) -> tf.Tensor:
        """The model's own `compute_loss`. Raises JobFailure where it gives no scalar."""
        with self.applied():
            loss = self._model._compute_loss(x, y, y_pred, sample_weight, training=training)
        name = type(self._model).__name__
        if loss is None or (shape := tf.convert_to_tensor(loss).shape).rank not in (0, None):
            given = "None" if loss is None else f"a tensor of shape {shape}"
            raise JobFailure(
                FailureCode.COMPONENT_ERROR,
                f"{name}.compute_loss returned {given}; a scalar was expected",
                hint="Return one number for the batch, for example tf.reduce_mean(…).",
                location=places.of_function(self._model.compute_loss),
            )
        return tf.convert_to_tensor(loss)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any) -> dict[str, Any]:
        """Update all metrics; the results of the model's own by name, as `fit` logs them."""
        if not overrides(self._model, *_OF_METRICS):
            self._metrics.update_state(y, y_pred, sample_weight)
            return self._named(_results(metrics_of(self._model)))
        with self.applied():
            logs = self._model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
            # As in fit: at the end of an epoch the metrics are read anew, unless the hook gave other names.
            results = self._model.get_metrics_result()
            logs = results if isinstance(logs, Mapping) and set(logs) == set(results) else logs
        if not isinstance(logs, Mapping):
            raise JobFailure(
                FailureCode.COMPONENT_ERROR,
                f"{type(self._model).__name__}.compute_metrics returned {type(logs).__name__}; a dict was expected",
                hint="Return name → value, as super().compute_metrics(…) does.",
                location=places.of_function(self._model.compute_metrics),
            )
        reported = self._metrics.names()  # the engine reads the spec's metrics itself
        return self._named({name: value for name, value in logs.items() if name not in reported})

    def _named(self, results: Mapping[str, Any]) -> dict[str, Any]:
        taken = self._metrics.names()
        own = [metric.name for metric in metrics_of(self._model)]
        if clash := sorted({*own} & taken):
            raise JobFailure(
                FailureCode.INVALID_SPEC,
                f"{type(self._model).__name__} holds a metric {clash[0]!r}, and a metric of the spec has that name too",
                hint=f'Give the one in the spec another name: {{"config": {{"name": "spec_{clash[0]}"}}}}.',
            )
        named: dict[str, Any] = {}
        for name, value in results.items():
            named |= spec_metrics.scalars(name, value)
        return named


def uncalled_hooks(
    models: Mapping[str, keras.Model], step: TrainingStep, called: Collection[tuple[str, str]]
) -> list[Note]:
    """Hooks of models that a built-in step has no place for. In a step of their own, users decide what is called."""
    if not type(step).__module__.startswith(f"{_SHIPPED}."):
        return []
    return [
        Note(
            "hook_not_called",
            f"model {role!r} ({type(model).__name__}) overrides {hook}, which {type(step).__name__} does not call",
            f"Call run.{hook}({role!r}, …) in a training step of your own, or leave the method out.",
            places.of_function(getattr(model, hook)),
        )
        for role, model in models.items()
        for hook in ("compute_loss", "compute_metrics")
        if overrides(model, hook) and (role, hook) not in called
    ]


def reset_metrics(models: Iterable[keras.Model]) -> list[Callable[[], Any]]:
    """What begins an epoch for models that reset their metrics in a way of their own."""
    return [model.reset_metrics for model in models if overrides(model, "reset_metrics")]


def own_metrics(models: Iterable[keras.Model]) -> list[keras.metrics.Metric]:
    """The metrics that Keras resets for models, sublayers included."""
    return [metric for model in models if not overrides(model, "reset_metrics") for metric in metrics_of(model)]


def metrics_of(model: keras.Model) -> list[keras.metrics.Metric]:
    """The metrics that a model and its layers hold, without those that it was compiled with: a job has its own.

    Models of libraries compile themselves when they are made.
    """
    compiled = [model._loss_tracker, model._compile_metrics, *getattr(model._compile_loss, "metrics", ())]
    return [metric for metric in model.metrics if not any(metric is one for one in compiled)]


def _results(metrics: Iterable[keras.metrics.Metric]) -> dict[str, Any]:
    """As `Trainer.get_metrics_result`: a dict counts by its keys."""
    found: dict[str, Any] = {}
    for metric in metrics:
        result = metric.result()
        found.update(result if isinstance(result, Mapping) else {metric.name: result})
    return found


class _CompiledLoss:
    """Stands for Keras' CompileLoss, and for the attribute `loss`."""

    metrics: Sequence[Any] = ()

    def __init__(self, loss: Any) -> None:
        self._loss = loss

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return self._loss(y_true, y_pred, sample_weight)


class _CompiledMetrics:
    """Stands for Keras' CompileMetrics; its variables are the spec's metrics' own."""

    name = "compile_metrics"
    variables: Sequence[Any] = ()

    def __init__(self, metrics: Sequence[RoleMetric], update: Callable[..., None]) -> None:
        self._metrics = metrics
        self._update = update

    def names(self) -> set[str]:
        return {item.name for item in self._metrics}

    def update_state(self, y: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self._update(y, y_pred, sample_weight)

    def result(self) -> dict[str, Any]:
        return {item.name: item.metric.result() for item in self._metrics}

    def reset_state(self) -> None:
        """The engine resets the spec's metrics."""
