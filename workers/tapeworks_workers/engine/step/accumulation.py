"""Gradients averaged over n calls: as good as a batch n times as large, in the memory of one.

The sums are variables, so a checkpoint in the middle of n calls holds them. They are dense, of each variable's size,
whatever the gradients are: rows of different batches differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure


class Accumulator:
    """Sums of the gradients of some variables."""

    def __init__(self, optimizer: str, variables: Sequence[Any], *, calls: int) -> None:
        self._optimizer = optimizer
        self._paths = [variable.path for variable in variables]
        self._wanted = calls
        self._calls = tf.Variable(0, dtype=tf.int64, trainable=False, name="calls")
        self._sums = [tf.Variable(tf.zeros(v.shape, v.dtype), trainable=False, name="sum") for v in variables]
        self._indices: list[int] | None = None
        """Which of the variables the step's losses reach; the first call that is traced tells."""

    def variables(self) -> dict[str, tf.Variable]:
        """What a checkpoint must hold."""
        sums = {f"{index}/{path}": one for index, (path, one) in enumerate(zip(self._paths, self._sums, strict=True))}
        return {"calls": self._calls, **sums}

    def add(self, indices: list[int], gradients: Sequence[Any], apply: Callable[[list[Any]], tf.Tensor]) -> tf.Tensor:
        """Count this call; at every n-th, `apply` the averages. Returns what that returned, False in between.

        `indices`: which of the variables the gradients are of; the same in every call, or a variable would be averaged
        over calls that were none of its own. Raises JobFailure `component_error`.
        """
        self._check(indices)
        sums = [self._sums[index] for index in indices]
        added = [_add(one, gradient) for one, gradient in zip(sums, gradients, strict=True)]
        calls = self._calls.read_value() + 1
        full = calls >= self._wanted

        def averaged() -> tf.Tensor:
            changed = apply([one / tf.cast(self._wanted, one.dtype) for one in added])
            for one in sums:
                one.assign(tf.zeros_like(one))
            return changed

        changed = tf.cond(full, averaged, lambda: tf.constant(False))
        self._calls.assign(tf.where(full, tf.zeros([], tf.int64), calls))
        return changed

    def _check(self, indices: list[int]) -> None:
        first = self._indices = indices if self._indices is None else self._indices
        for index in sorted(set(first) ^ set(indices)):
            raise JobFailure(
                FailureCode.COMPONENT_ERROR,
                f"training.gradient_accumulation: one loss given to optimizer {self._optimizer!r} reaches "
                f"{self._paths[index]}, another does not",
                hint="Add the losses and minimise their sum, or give the losses optimizers of their own.",
            )


def _add(total: tf.Variable, gradient: Any) -> tf.Tensor:
    """The new sum."""
    if isinstance(gradient, tf.IndexedSlices):
        total.scatter_add(gradient)
    else:
        total.assign_add(gradient)
    return total.read_value()
