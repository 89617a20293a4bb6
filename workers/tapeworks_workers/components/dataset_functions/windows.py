"""`windows`: from a time series to pairs of what was and what comes."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tapeworks import component

_AT_ONCE = 256


@component(
    "windows",
    kind="dataset_function",
    example={"config": {"size": 2}, "inputs": tf.TensorSpec([3], tf.float32)},
)
class Windows:
    """Slides over consecutive elements, the steps of one series: x is `size` of them, y what follows.

    The element's x is a step, `(features,)` or a scalar; a y of its own is replaced. Elements are `(x, y)`: x of shape
    `(size, …)`, y `(…)` with `horizon` 1, else `(horizon, …)`. Incomplete windows at the end are left out.

    Args:
        size: steps in x.
        shift: steps from one window to the next.
        horizon: steps in y.
        target: index of the feature that y holds; null: all of them.
    """

    def __init__(self, size: int, shift: int = 1, horizon: int = 1, target: int | None = None) -> None:
        if min(size, shift, horizon) < 1:
            raise ValueError(f"size, shift and horizon are 1 or more, not {size}, {shift} and {horizon}")
        self.size, self.shift, self.horizon, self.target = size, shift, horizon, target

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        whole = self.size + self.horizon
        # Many windows are cut from one longer stretch of steps: a dataset for each window is some 50 times slower.
        stretch = (_AT_ONCE - 1) * self.shift + whole

        @tf.autograph.experimental.do_not_convert
        def stretches(*window: Any) -> tf.data.Dataset:
            return window[0].batch(stretch)

        @tf.autograph.experimental.do_not_convert
        def windows(steps: tf.Tensor) -> tf.data.Dataset:
            starts = tf.range(0, tf.shape(steps)[0] - whole + 1, self.shift)
            return tf.data.Dataset.from_tensor_slices(tf.gather(steps, starts[:, None] + tf.range(whole)))

        @tf.autograph.experimental.do_not_convert
        def parted(steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            after = steps[self.size :] if self.target is None else steps[self.size :, ..., self.target]
            return steps[: self.size], after[0] if self.horizon == 1 else after

        long = dataset.window(stretch, shift=_AT_ONCE * self.shift).flat_map(stretches)
        cut = long.flat_map(windows).map(parted)
        steps = int(dataset.cardinality())
        if steps < 0:
            return cut  # endless, or known by iterating only
        return cut.apply(tf.data.experimental.assert_cardinality(max(0, (steps - whole) // self.shift + 1)))
