"""What is to be found in a picture of a digit: its ink below noise, and where it lies."""

import tensorflow as tf

from tapeworks import component

EXAMPLE = {"config": {}, "inputs": (tf.TensorSpec([8, 8, 1], tf.float32), tf.TensorSpec([], tf.int64))}


@component("acme/noisy_mask", example=EXAMPLE)
def noisy_mask(x, y, *, noise: float = 0.3, seed=(0, 0)):
    """The picture with noise on it, and as `y` the mask of its ink: `(8, 8, 1)`, 0 or 1."""
    mask = tf.cast(x > 0.5, x.dtype)
    return x + tf.random.stateless_normal(tf.shape(x), seed, stddev=noise, dtype=x.dtype), mask


@component("acme/placed", example=EXAMPLE)
def placed(x, y, *, size: int = 16, seed=(0, 0)):
    """The picture somewhere on a sheet of `size` × `size`, and as `y` the centre of its ink in pixels: row, column."""
    room = size - tf.reduce_max(tf.shape(x)) + 1
    at = tf.random.stateless_uniform([2], seed, maxval=room, dtype=tf.int32)
    sheet = tf.ensure_shape(tf.image.pad_to_bounding_box(x, at[0], at[1], size, size), [size, size, 1])
    ink, pixels = tf.squeeze(sheet, -1), tf.range(size, dtype=x.dtype)
    centre = [tf.reduce_sum(tf.reduce_sum(ink, axis=axis) * pixels) for axis in (1, 0)]
    return sheet, tf.stack(centre) / tf.reduce_sum(ink)
