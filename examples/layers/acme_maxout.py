"""A layer of your own: it is built at its first shape and adds a loss."""

import keras
import tensorflow as tf

from tapeworks import component


@component("acme/Maxout", example={"config": {"units": 3, "balance": 0.1}, "inputs": tf.TensorSpec([None, 4])})
class Maxout(keras.layers.Layer):
    """The largest of `pieces` linear functions, for each unit: Goodfellow et al. (2013), arXiv:1302.4389.

    `balance` adds a loss that asks every piece to be the largest equally often: without it some are never used. It is
    balance · (pieces · Σ share · mean probability - 1), as the experts of Fedus et al. (2021), arXiv:2101.03961, share.
    """

    def __init__(self, units: int, pieces: int = 2, balance: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.pieces = pieces
        self.balance = balance

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units * self.pieces), name="kernel")
        self.bias = self.add_weight(shape=(self.units * self.pieces,), initializer="zeros", name="bias")

    def call(self, inputs):
        pieces = tf.matmul(inputs, self.kernel) + self.bias
        pieces = tf.reshape(pieces, [-1, self.units, self.pieces])
        if self.balance:
            chosen = tf.one_hot(tf.argmax(pieces, axis=-1), self.pieces, dtype=pieces.dtype)
            share, probability = (tf.reduce_mean(of, axis=[0, 1]) for of in (chosen, tf.nn.softmax(pieces)))
            self.add_loss(self.balance * (self.pieces * tf.reduce_sum(share * probability) - 1.0))
        return tf.reduce_max(pieces, axis=-1)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)
