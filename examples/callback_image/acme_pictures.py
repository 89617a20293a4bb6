"""A callback that leaves an image of what a network has learned, each epoch."""

import math

import tensorflow as tf

from tapeworks import Callback, component


@component("acme/WeightPictures")
class WeightPictures(Callback):
    """The weights of a model's first layer, a small picture for each unit: the pattern that it looks for.

    The inputs must be square pictures, flattened.
    """

    def __init__(self, role: str = "model", scale: int = 6):
        self.role = role
        self.scale = scale

    def on_epoch_end(self, epoch, logs, run):
        kernel = run.models[self.role].weights[0].value
        inputs, units = kernel.shape
        side, columns = math.isqrt(inputs), math.isqrt(units)
        pictures = tf.reshape(tf.transpose(kernel), [units, side, side, 1])[: columns * columns]
        # Grey is 0; each unit has a range of its own.
        largest = tf.reduce_max(tf.abs(pictures), axis=[1, 2, 3], keepdims=True)
        pictures = tf.pad(0.5 + 0.5 * pictures / largest, [[0, 0], [0, 1], [0, 1], [0, 0]], constant_values=1.0)
        rows = tf.reshape(pictures, [columns, columns, side + 1, side + 1])
        sheet = tf.reshape(tf.transpose(rows, [0, 2, 1, 3]), [columns * (side + 1), columns * (side + 1), 1])
        sheet = tf.repeat(tf.repeat(sheet, self.scale, axis=0), self.scale, axis=1)
        image = tf.io.encode_png(tf.image.convert_image_dtype(sheet, tf.uint8))
        run.artifact(f"weights/epoch-{epoch:03d}.png").write_bytes(image.numpy())
