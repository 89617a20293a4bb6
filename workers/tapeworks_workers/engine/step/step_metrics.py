"""What the host reads of the steps of a split: the means of their scalars, the metrics' results, whether all is well.

A plan may end each of its calls with `StepMetrics.to_vector`, traced into the call's own graph, and return it:
reading costs nothing then. Between other calls everything is read from outside, each thing when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks_workers.engine.diagnostics.retracing import Note
from tapeworks_workers.engine.graph.autograph import peek
from tapeworks_workers.engine.step import metrics as metric_results
from tapeworks_workers.engine.step.compiled_step import CompiledStep
from tapeworks_workers.engine.step.fit_hooks import reset_metrics


class StepMetrics:
    """Reads on the host what a step accumulated."""

    def __init__(self, compiled: CompiledStep) -> None:
        self._compiled = compiled
        self._packed: np.ndarray | None = None
        """What the last call ended with."""
        self._packed_names: tuple[str, ...] | None = None
        """The results that are part of it; None where they are read apart."""
        self._results: Any = None
        """Reads all metrics in one graph."""
        self._in_graph = True
        self._result_names: tuple[str, ...] = ()
        self._resets: list[Callable[[], Any]] | None = None
        self._values: np.ndarray | None = None
        """The sums, as they were last read."""

    @property
    def names(self) -> tuple[str, ...]:
        """The scalars that the step returns."""
        return self._compiled.names

    @property
    def _vector(self) -> np.ndarray:
        """The sums: read once for all that is asked of them between two calls."""
        if self._values is None:
            sums = self._compiled.assembly.means.get(self._compiled.split)
            if sums is None:
                return np.zeros(2)
            self._values = peek(sums) if self._packed is None else self._packed[1 : 1 + sums.shape[0]]
        return self._values

    def moved(self, packed: tf.Tensor | None = None) -> None:
        """Steps were run, or the state was restored: what was read of it is old. `packed`: what is to be read now."""
        self._values = None
        self._packed = None if packed is None else packed.numpy()

    def to_vector(self) -> tf.Tensor:
        """Traced at the end of a call: whether a label has no output, the sums, the results of Keras' own metrics.

        A float64 vector. Other metrics may need NumPy or Python numbers, or be nothing for XLA: they are read apart.
        """
        assembly, split = self._compiled.assembly, self._compiled.split
        beyond = [one for loss in assembly.losses.values() for one in loss.labels_beyond()]
        parts = [tf.cast(tf.reduce_any(beyond), tf.float64)[None] if beyond else tf.zeros([1], tf.float64)]
        parts.append(assembly.means[split].read_value())
        if all(_is_keras_own(one.metric, "result") for one in assembly.all_metrics(split)):
            results = self._compute()
            self._packed_names = tuple(results)
            parts += [tf.cast(value, tf.float64)[None] for value in results.values()]
        return tf.concat(parts, 0)

    def reset(self) -> None:
        """Begin an epoch: means, metrics, and the metrics that models, layers and the step hold."""
        self.moved()
        if self._resets is None:
            assembly = self._compiled.assembly
            metrics = [one.metric for one in assembly.all_metrics(self._compiled.split)]
            metrics += assembly.held_metrics()
            by_models = reset_metrics(assembly.models.values())
            sums = assembly.means.get(self._compiled.split)
            if sums is None:  # without a trace, the first step makes them
                for reset in (*(metric.reset_state for metric in metrics), *by_models):
                    reset()
                return
            self._resets = [*_resets(sums, metrics), *by_models]
        for reset in self._resets:
            reset()

    def read(self) -> dict[str, float]:
        """Name → value; {} before the first batch."""
        values = self._vector
        if values[-2] == 0:
            return {}
        means = dict(zip(self._compiled.names, (values[:-2] / values[-2]).tolist(), strict=True))
        return means | self._read_results()

    def _read_results(self) -> dict[str, float]:
        """In one graph; a metric whose `result` needs NumPy or Python numbers is read eagerly, as in `fit`."""
        if self._packed is not None and self._packed_names is not None:
            return dict(zip(self._packed_names, self._packed[1 + len(self._vector) :].tolist(), strict=True))
        if self._in_graph:
            try:
                if self._results is None:
                    self._results = tf.function(self._stacked, autograph=False).get_concrete_function()
                values = self._results().numpy().tolist()
                return dict(zip(self._result_names, values, strict=True))
            except (NotImplementedError, TypeError, AttributeError):
                self._in_graph = False
        return metric_results.as_floats(self._compute())

    def _stacked(self) -> tf.Tensor:
        results = self._compute()
        self._result_names = tuple(results)
        return tf.stack([tf.cast(value, tf.float64) for value in results.values()]) if results else tf.zeros([0])

    def check_labels(self) -> list[Note]:
        """Raises JobFailure `invalid_data` where a label was seen that no output stands for; notes where it may be."""
        if self._packed is not None and not self._packed[0]:
            return []
        return [note for loss in self._compiled.assembly.losses.values() for note in loss.check_labels()]

    def finite_steps(self) -> int:
        """Steps since the reset before the first value that was not finite."""
        return int(self._vector[-1])

    def examples(self) -> float:
        """The weight of the means: examples since the reset."""
        return float(self._vector[-2])

    def not_finite(self) -> dict[str, float]:
        """The scalars whose sums are not finite."""
        sums = dict(zip(self._compiled.names, self._vector[:-2].tolist(), strict=True))
        return {name: value for name, value in sums.items() if not np.isfinite(value)}

    def _compute(self) -> dict[str, tf.Tensor]:
        results: dict[str, tf.Tensor] = {}
        for metric in self._compiled.assembly.all_metrics(self._compiled.split):
            results |= metric_results.scalars(metric.name, metric.metric.result())
        return results


def _resets(sums: tf.Variable, metrics: Sequence[keras.metrics.Metric]) -> list[Callable[[], Any]]:
    """What begins an epoch. Keras' own resets are assignments, and made in one graph: from Python each would take
    longer than a step of a small model. A metric's own may do anything, and is called as it is."""
    assigning = [one for one in metrics if _is_keras_own(one, "reset_state")]

    def together() -> None:
        sums.assign(tf.zeros_like(sums))
        for metric in assigning:
            metric.reset_state()

    reset = tf.function(together, autograph=False).get_concrete_function()
    return [reset, *(one.reset_state for one in metrics if one not in assigning)]


def _is_keras_own(metric: keras.metrics.Metric, method: str) -> bool:
    return str(getattr(type(metric), method).__module__).startswith("keras.")
