"""`rank_correlation`: whether a model's scores rank the examples as `y` does.

Spearman, "The Proof and Measurement of Association between Two Things" (1904).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tapeworks import Evaluator, component


@component("rank_correlation")
class RankCorrelation(Evaluator):
    """Spearman's ρ between a model's outputs and `y`, over the whole split at once; equal values share their mean rank.

    Outputs and `y` are `(n,)` or `(n, k)`, numbers of any dtype; of k columns the mean is reported. A column without
    two different outputs, or without two different values of `y`, counts as 0: it ranks nothing.

    Value: `rank_correlation`, between -1 and 1.

    Args:
        role: the model whose outputs are compared.
    """

    def __init__(self, role: str = "model") -> None:
        self.role = role
        self.directions = {"rank_correlation": "max"}
        self._predict: Any = None

    def evaluate(self, dataset: Any, run: Any) -> dict[str, float]:
        if self._predict is None:
            model = run.models[self.role]
            self._predict = tf.function(lambda x: model(x, training=False), reduce_retracing=True)
        outputs, targets = [], []
        for batch in dataset:
            if not isinstance(batch, tuple) or len(batch) < 2:
                raise ValueError("rank_correlation needs elements (x, y)")
            predicted = np.asarray(self._predict(batch[0]))
            outputs.append(predicted.reshape(len(predicted), -1))
            targets.append(np.asarray(batch[1]).reshape(len(predicted), -1))
        scores, wanted = np.concatenate(outputs), np.concatenate(targets)
        if scores.shape != wanted.shape:
            raise ValueError(
                f"rank_correlation needs outputs and y of one shape, not {scores.shape} and {wanted.shape}"
            )
        columns = [_correlation(_ranks(a), _ranks(b)) for a, b in zip(scores.T, wanted.T, strict=True)]
        return {"rank_correlation": float(np.mean(columns))}


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of theirs."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2.0)[index]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / scale) if scale > 0 else 0.0
