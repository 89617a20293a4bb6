"""A data function whose calls take unequally long."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tapeworks import component


@component("order/SlowFirst")
class SlowFirst:
    """Takes longest for the first of each few elements."""

    def __call__(self, x: Any, y: Any) -> Any:
        rounds = tf.where(tf.cast(x[0], tf.int32) % 4 == 0, 3_000, 1)
        wait = tf.while_loop(lambda count: count < rounds, lambda count: (count + 1,), (tf.constant(0),))
        return x + tf.cast(wait[0] * 0, x.dtype), y
