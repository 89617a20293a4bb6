"""`class_weight`: a sample weight from the class, as `fit(class_weight=…)`."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tapeworks import component

_EXAMPLE = {
    "config": {"weights": [1.0, 2.0, 0.5]},
    "inputs": (tf.TensorSpec([None, 4], tf.float32), tf.TensorSpec([None], tf.int64)),
}


@component("class_weight", example=_EXAMPLE)
class ClassWeight:
    """Adds to `(x, y)` the weight of y's class; multiplies it with a sample weight that is there.

    It works before and after `batch`. A class without a weight fails the job.

    Args:
        weights: one for each class, in order.
    """

    def __init__(self, weights: list[float]) -> None:
        if not weights or any(weight < 0 for weight in weights):
            raise ValueError(f"weights are 0 or more, one for each class, not {weights}")
        self.weights = weights

    def __call__(self, x: Any, y: Any, sample_weight: Any = None) -> tuple[Any, Any, Any]:
        if not tf.is_tensor(y):
            raise ValueError(
                f"class_weight weighs by one label, and y is a {type(y).__name__} of several: give the source a weight "
                "column, or map to (x, y, weights) with a function of your own"
            )
        if not y.dtype.is_integer:
            raise ValueError(f"class_weight needs integer class labels, not {y.dtype.name}: cast y first")
        label = tf.cast(y, tf.int32)
        message = f"class_weight has {len(self.weights)} weights, and the data a label outside of them"
        known = tf.reduce_all((label >= 0) & (label < len(self.weights)))
        with tf.control_dependencies([tf.debugging.Assert(known, [message, label])]):
            weight = tf.gather(tf.constant(self.weights, tf.float32), label)
        if sample_weight is not None:
            weight *= tf.cast(sample_weight, weight.dtype)
        return x, y, weight
