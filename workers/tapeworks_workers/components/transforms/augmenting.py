"""`random_flip` and `random_crop`: images varied at random, another way each pass.

They are for `map`, mostly with `"training_only": true`, and are seeded by the job: a resumed job repeats them. The
images stand alone or, after `batch`, in a batch that is varied as one.
"""

from __future__ import annotations

from typing import Any, Literal

import tensorflow as tf

from tapeworks import component

_EXAMPLE = {"inputs": tf.TensorSpec([8, 8, 3], tf.float32)}


@component("random_flip", example=_EXAMPLE)
def random_flip(
    x: Any, *rest: Any, direction: Literal["horizontal", "vertical"] = "horizontal", seed: Any = (0, 0)
) -> Any:
    """Mirrors the image x `(…, height, width, channels)` with probability 1/2. What else the element holds stays.

    Args:
        direction: "horizontal" swaps left and right, "vertical" top and bottom.
    """
    axis = -2 if direction == "horizontal" else -3
    flipped = tf.where(tf.random.stateless_uniform([], seed) < 0.5, tf.reverse(x, [x.shape.rank + axis]), x)
    return (flipped, *rest) if rest else flipped


@component("random_crop", example={**_EXAMPLE, "config": {"padding": 2}})
def random_crop(x: Any, *rest: Any, padding: int = 4, seed: Any = (0, 0)) -> Any:
    """Shifts the image x `(…, height, width, channels)` by up to `padding` pixels each way; zeros move in (He et al.
    2015, section 4.2). What else the element holds stays.

    Args:
        padding: pixels of zeros put around the image before one of its own size is cut out.
    """
    leading = x.shape.rank - 3
    padded = tf.pad(x, [[0, 0]] * leading + [[padding, padding]] * 2 + [[0, 0]])
    at = tf.random.stateless_uniform([2], seed, 0, 2 * padding + 1, tf.int32)
    begin = tf.concat([tf.zeros([leading], tf.int32), at, [0]], 0)
    cut = tf.ensure_shape(tf.slice(padded, begin, tf.shape(x)), x.shape)
    return (cut, *rest) if rest else cut
