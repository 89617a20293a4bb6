import numpy as np
import tensorflow as tf
from tinyvae import Encoder, PixelLoss


def test_the_divergence_is_that_of_two_normal_distributions():
    encoder = Encoder(latent=1)
    encoder(tf.zeros([1, 4]))
    encoder.parameters.bias.assign([2.0, np.log(4.0)])  # mean 2, variance 4
    assert encoder(tf.zeros([3, 4])).numpy().tolist() == [[2.0]] * 3
    np.testing.assert_allclose(encoder.losses, [0.5 * (4.0 + 4.0 - 1.0 - np.log(4.0))], rtol=1e-6)


def test_it_samples_in_training():
    encoder, x = Encoder(latent=2), tf.ones([1, 4])
    assert not np.allclose(encoder(x, training=True), encoder(x, training=True))


def test_not_knowing_costs_one_bit_a_pixel():
    np.testing.assert_allclose(PixelLoss()(tf.ones([2, 64]), tf.zeros([2, 64])), 64 * np.log(2.0), rtol=1e-6)
