"""A function for `map` that brings a float and an integer together, with the cast that TensorFlow wants."""

import tensorflow as tf

from tapeworks import component


@component("acme/WithTotal")
def with_total(x, y):
    """Adds what the order costs in all, in hundreds: `price` is float32, `pieces` uint8."""
    total = x["price"] * tf.cast(x["pieces"], tf.float32)
    return {**x, "total": total[:, tf.newaxis] / 100.0}, y
