"""`decode_image`: the bytes of an image file, as columns of Parquet and Arrow and records hold them, as pixels."""

from __future__ import annotations

from typing import Any, Literal

import keras
import tensorflow as tf

from tapeworks import component


@component("decode_image", example={"config": {"size": [4, 4]}, "inputs": tf.TensorSpec([], tf.string)})
def decode_image(x: Any, *rest: Any, channels: Literal[1, 3, 4] = 3, size: tuple[int, int] | None = None) -> Any:
    """The image file x, a string scalar, as pixels `(height, width, channels)` from 0 to 1. What else the element holds
    stays. For `map` before `batch`; PNG, JPEG, GIF (its first frame) and BMP. EXIF orientation is not applied.

    Args:
        channels: 1 grey, 3 colour, 4 with transparency.
        size: height and width to resize to (bilinear, antialiased); null: as stored.
    """
    # As floats, PNG of 16 bits keep theirs.
    image = tf.io.decode_image(x, channels=channels, dtype=tf.float32, expand_animations=False)
    image.set_shape([None, None, channels])
    if size is not None:
        image = tf.clip_by_value(tf.image.resize(image, size, antialias=True), 0.0, 1.0)
    image = tf.cast(image, keras.config.floatx())
    return (image, *rest) if rest else image
