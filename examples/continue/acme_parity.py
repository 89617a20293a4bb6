"""Another question about the same data."""

import tensorflow as tf

from tapeworks import component

ELEMENT = (tf.TensorSpec([64], tf.float32), tf.TensorSpec([], tf.int64))


@component("acme/parity", example={"inputs": ELEMENT})
def parity(x, y):
    """The label becomes 1 where it was odd, 0 where it was even."""
    return x, tf.math.floormod(y, 2)
