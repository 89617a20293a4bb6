"""A layer over rows of any length that keeps them ragged."""

import keras
import tensorflow as tf

from tapeworks import component


@component("acme/Moments", example={"config": {}, "inputs": tf.RaggedTensorSpec([None, None], tf.float32)})
class Moments(keras.layers.Layer):
    """Mean, largest value and log of the length of each row of a RaggedTensor `(batch, None)`: `(batch, 3)`."""

    def call(self, inputs):
        rows, count, values = inputs.value_rowids(), inputs.nrows(), inputs.values
        lengths = tf.cast(inputs.row_lengths(), values.dtype)
        mean = tf.math.divide_no_nan(tf.math.unsorted_segment_sum(values, rows, count), lengths)
        largest = tf.maximum(tf.math.unsorted_segment_max(values, rows, count), 0.0)
        return tf.stack([mean / 10.0, largest / 10.0, tf.math.log1p(lengths)], axis=1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], 3)
