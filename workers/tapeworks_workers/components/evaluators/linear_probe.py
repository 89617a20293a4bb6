"""`linear_probe`: how well a linear classifier does on what a model has learned.

Alain and Bengio, "Understanding intermediate layers using linear classifier probes" (2016),
https://arxiv.org/abs/1610.01644. The classifier is ridge regression on one-hot targets (Hoerl and Kennard 1970).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tapeworks import Evaluator, component


@component("linear_probe")
class LinearProbe(Evaluator):
    """The accuracy of a linear classifier on frozen embeddings: fitted on the training split, tried on the evaluated.

    The role's model gives embeddings of the element's `x`, flattened to `(n, d)`; `y` holds class labels `(n,)` or
    `(n, 1)`. The fit is ridge regression in closed form from sums in float64, so it is the same in every run, needs
    memory of d² and does not depend on batches. The training split is read as its pipeline gives it, augmentation
    included.

    Value: `linear_probe_accuracy`.

    Args:
        role: the model that embeds.
        l2: the penalty on weights, relative to the mean variance of the embeddings' dimensions.
        take: how many training batches are read; needed where the training split is endless.
    """

    def __init__(self, role: str = "model", l2: float = 1e-3, take: int | None = None) -> None:
        if l2 <= 0:
            raise ValueError(f"l2 must be above 0, not {l2}")
        self.role, self.l2, self.take = role, l2, take
        self.directions = {"linear_probe_accuracy": "max"}
        self._embed: Any = None

    def evaluate(self, dataset: Any, run: Any) -> dict[str, float]:
        if self._embed is None:
            model = run.models[self.role]
            self._embed = tf.function(lambda x: model(x, training=False), reduce_retracing=True)
        training = run.datasets["training"]
        if self.take is not None:
            training = training.take(self.take)
        elif training.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError("the training split is endless: give linear_probe a number of batches as `take`")
        classes, weights, bias = self._fitted(training)
        right = total = 0
        for vectors, labels in self._batches(dataset):
            right += int((classes[np.argmax(vectors @ weights + bias, axis=1)] == labels).sum())
            total += len(labels)
        return {"linear_probe_accuracy": right / total}

    def _fitted(self, dataset: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(classes, weights (d, classes), bias) of the ridge regression."""
        gram: Any = 0.0
        sums: dict[Any, np.ndarray] = {}
        counts: dict[Any, int] = {}
        for vectors, labels in self._batches(dataset):
            gram = gram + vectors.T @ vectors
            for label in np.unique(labels):
                own = vectors[labels == label]
                sums[label] = sums.get(label, 0.0) + own.sum(axis=0)
                counts[label] = counts.get(label, 0) + len(own)
        classes = sorted(sums)
        of_class = np.array([counts[label] for label in classes], np.float64)
        total = of_class.sum()
        by_class = np.stack([sums[label] for label in classes], axis=1)
        mean = by_class.sum(axis=1) / total
        covariance = gram / total - np.outer(mean, mean)
        penalty = self.l2 * max(float(np.trace(covariance)) / len(mean), 1e-12)
        target = by_class / total - np.outer(mean, of_class / total)
        weights = np.linalg.solve(covariance + penalty * np.eye(len(mean)), target)
        return np.array(classes), weights, of_class / total - mean @ weights

    def _batches(self, dataset: Any) -> Any:
        for batch in dataset:
            if not isinstance(batch, tuple) or len(batch) < 2:
                raise ValueError("linear_probe needs elements (x, y), y the class labels")
            vectors = np.asarray(self._embed(batch[0]), np.float64)
            labels = np.asarray(batch[1])
            if labels.size != len(vectors):
                raise ValueError(f"linear_probe needs one label for each example, not y of shape {labels.shape}")
            yield vectors.reshape(len(vectors), -1), labels.reshape(-1)
