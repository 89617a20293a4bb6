"""`reparameterize`: the Gaussian latent of Kingma & Welling, "Auto-Encoding Variational Bayes" (2013), arXiv:1312.6114.

Appendix B gives the divergence in closed form; the weight is beta of Higgins et al., "beta-VAE" (ICLR 2017).
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tapeworks import component

_EXAMPLE = {"config": {}, "inputs": [tf.TensorSpec([None, 4], tf.float32), tf.TensorSpec([None, 4], tf.float32)]}


@component("reparameterize", example=_EXAMPLE)
class Reparameterize(keras.layers.Layer):
    """`z = mean + exp(log_variance / 2) · noise` while training, `mean` otherwise; its KL is an added loss.

    Takes a pair (mean, log_variance), each `(batch, …, k)` of one float dtype, or one tensor `(batch, …, 2k)` that
    holds both side by side; gives `(batch, …, k)` in the layer's compute dtype. The loss, float32 or float64, is
    `weight · KL(N(mean, variance) || N(0, 1))` in nats, summed over all but the batch and averaged over that. It is
    added in evaluation too, so that validation tells the same sum as training.

    Args:
        weight: of the divergence; 0 adds no loss.
        seed: of the noise; None: derived from Keras' global seed.

    Raises ValueError where mean and log_variance differ in shape, or one tensor has an odd last dimension.
    """

    def __init__(self, weight: float = 1.0, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if weight < 0:
            raise ValueError(f"weight must be 0 or more, not {weight}")
        self.weight = weight
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape: Any) -> None:
        if not _is_pair(input_shape):
            if input_shape[-1] is None or input_shape[-1] % 2:
                raise ValueError(f"reparameterize needs a last dimension that is even, not {tuple(input_shape)}")
        elif len(input_shape) != 2 or tuple(input_shape[0]) != tuple(input_shape[1]):
            raise ValueError(f"reparameterize takes mean and log_variance of one shape, not {input_shape}")

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if isinstance(inputs, (list, tuple)):
            mean, log_variance = inputs
        else:
            mean, log_variance = tf.split(inputs, 2, axis=-1)
        if self.weight:
            self.add_loss(self.weight * _divergence(mean, log_variance))
        if not training:
            return mean
        noise = keras.random.normal(tf.shape(mean), dtype=mean.dtype, seed=self.seed_generator)
        return mean + tf.exp(0.5 * log_variance) * noise

    def compute_output_shape(self, input_shape: Any) -> Any:
        if _is_pair(input_shape):
            return tuple(input_shape[0])
        return (*input_shape[:-1], input_shape[-1] // 2)


def _is_pair(shape: Any) -> bool:
    return isinstance(shape[0], (list, tuple))


def _divergence(mean: Any, log_variance: Any) -> Any:
    """KL to the standard normal, averaged over the batch; a scalar, in float32 where the inputs are narrower."""
    dtype = tf.float64 if mean.dtype == tf.float64 else tf.float32
    mean, log_variance = tf.cast(mean, dtype), tf.cast(log_variance, dtype)
    each = 0.5 * (tf.square(mean) + tf.exp(log_variance) - 1.0 - log_variance)
    return tf.reduce_sum(each) / tf.cast(tf.maximum(tf.shape(mean)[0], 1), dtype)
