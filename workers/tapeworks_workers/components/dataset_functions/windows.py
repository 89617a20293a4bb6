"""`windows`: from a time series to pairs of what was and what comes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tapeworks import component, errors

_AT_ONCE = 256


@component(
    "windows",
    kind="dataset_function",
    example={"config": {"size": 2}, "inputs": tf.TensorSpec([3], tf.float32)},
)
class Windows:
    """Slides over consecutive elements, the steps of one series: x is `size` of them, y what follows.

    The element's x is a step: a scalar, `(features,)`, or a dict of those by column; a y of its own is replaced.
    Elements are `(x, y)`: x of shape `(size, …)`, y `(…)` with `horizon` 1, else `(horizon, …)`; of a dict, each column
    so. Incomplete windows at the end are left out. The steps must come in the order of the source: a job that shuffles
    them before, or draws its splits at random, is refused.

    Args:
        size: steps in x.
        shift: steps from one window to the next.
        horizon: steps in y.
        target: index of the feature that y holds, or name of the column; null: all of them.
        key: column of x that names the series of a step, where there are several, one after another: no window holds
            steps of two. It is no part of the result.
        by_file: each file of the source is a series of its own; the first window of each begins with its first step.
    """

    needs_order = True

    def __init__(
        self,
        size: int,
        shift: int = 1,
        horizon: int = 1,
        target: int | str | None = None,
        key: str | None = None,
        by_file: bool = False,
    ) -> None:
        if key is not None and by_file:
            raise ValueError("key and by_file both name series: give one of them")
        if min(size, shift, horizon) < 1:
            raise ValueError(f"size, shift and horizon are 1 or more, not {size}, {shift} and {horizon}")
        self.size, self.shift, self.horizon, self.target, self.key = size, shift, horizon, target, key
        self.by_file = by_file

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        whole = self.size + self.horizon
        # Many windows are cut from one longer stretch of steps: a dataset for each window is some 50 times slower.
        stretch = (_AT_ONCE - 1) * self.shift + whole
        self._check(_x(dataset.element_spec))

        @tf.autograph.experimental.do_not_convert
        def stretches(*window: Any) -> tf.data.Dataset:
            return _zipped(window[0]).batch(stretch)

        @tf.autograph.experimental.do_not_convert
        def windows(steps: Any) -> tf.data.Dataset:
            count = tf.shape(tf.nest.flatten(steps)[0])[0]
            starts = tf.range(0, count - whole + 1, self.shift)
            if self.key is not None:
                keys = tf.gather(steps[self.key], starts[:, None] + tf.range(whole))
                starts = tf.boolean_mask(starts, tf.reduce_all(keys == keys[:, :1], 1))
            taken = {name: one for name, one in steps.items() if name != self.key} if self.key is not None else steps
            return _cut(taken, starts, whole)

        long = dataset.window(stretch, shift=_AT_ONCE * self.shift).flat_map(stretches)
        cut = self._parted(long.flat_map(windows))
        steps = int(dataset.cardinality())
        if steps < 0 or self.key is not None:
            return cut  # endless, or known by iterating only
        return cut.apply(tf.data.experimental.assert_cardinality(max(0, (steps - whole) // self.shift + 1)))

    def of_series(self, dataset: tf.data.Dataset, lengths: Sequence[int]) -> tf.data.Dataset:
        """The windows of several series, one after another, none over the end of a series.

        Args:
            lengths: steps of each series, together those of the dataset.
        """
        whole = self.size + self.horizon
        self._check(_x(dataset.element_spec))
        ends = tf.constant(np.cumsum(lengths), tf.int64)
        begins = ends - tf.constant(lengths, tf.int64)

        @tf.autograph.experimental.do_not_convert
        def stretches(number: tf.data.Dataset, element: Any) -> tf.data.Dataset:
            return tf.data.Dataset.zip(number, _zipped(_x(element))).batch(_AT_ONCE + whole - 1)

        @tf.autograph.experimental.do_not_convert
        def windows(number: tf.Tensor, steps: Any) -> tf.data.Dataset:
            starts = tf.range(0, tf.size(number) - whole + 1)
            first = tf.gather(number, starts)
            series = tf.searchsorted(ends, first, side="right")
            kept = (first + whole <= tf.gather(ends, series)) & ((first - tf.gather(begins, series)) % self.shift == 0)
            return _cut(steps, tf.boolean_mask(starts, kept), whole)

        long = dataset.enumerate().window(_AT_ONCE + whole - 1, shift=_AT_ONCE).flat_map(stretches)
        count = sum(max(0, (length - whole) // self.shift + 1) for length in lengths)
        return self._parted(long.flat_map(windows)).apply(tf.data.experimental.assert_cardinality(count))

    def _parted(self, windows: tf.data.Dataset) -> tf.data.Dataset:
        """Windows of all steps as (x, y)."""

        @tf.autograph.experimental.do_not_convert
        def parted(steps: Any) -> tuple[Any, Any]:
            after = tf.nest.map_structure(lambda one: one[self.size :], steps)
            if isinstance(self.target, str):
                after = after[self.target]
            elif self.target is not None:
                after = after[..., self.target]
            x = tf.nest.map_structure(lambda one: one[: self.size], steps)
            return x, after if self.horizon > 1 else tf.nest.map_structure(lambda one: one[0], after)

        return windows.map(parted)

    def _check(self, x: Any) -> None:
        """Raise JobFailure `invalid_spec` where `target` or `key` is not in x."""
        columns = list(x) if isinstance(x, dict) else []
        for argument, name in (("target", self.target), ("key", self.key)):
            if isinstance(name, str) and name not in columns:
                has = f"x has {columns}" if columns else "x has no named columns: give the source named = true"
                raise _refused(f"windows: {argument} {name!r} is not a column of x; {has}")
        if columns and isinstance(self.target, int):
            raise _refused(f"windows: x has the columns {columns}, so target is the name of one, not {self.target}")


def _x(element: Any) -> Any:
    return element[0] if isinstance(element, tuple) else element


def _zipped(steps: Any) -> tf.data.Dataset:
    """A window of steps, of which tf.data gives a dataset for each column."""
    return tf.data.Dataset.zip(steps) if isinstance(steps, dict) else steps


def _cut(steps: Any, starts: tf.Tensor, whole: int) -> tf.data.Dataset:
    """The windows of `whole` steps that begin at these steps."""
    places = starts[:, None] + tf.range(whole)
    return tf.data.Dataset.from_tensor_slices(tf.nest.map_structure(lambda one: tf.gather(one, places), steps))


def _refused(message: str) -> errors.JobFailure:
    return errors.JobFailure(errors.FailureCode.INVALID_SPEC, message, location=errors.Location(component="windows"))
