import numpy as np
import tensorflow as tf
from tinywgan import Critical, slope_penalty


def test_a_slope_of_1_costs_nothing_and_one_of_3_costs_4():
    x = tf.random.normal([5, 2])
    direction = tf.constant([[0.6], [0.8]])
    np.testing.assert_allclose(slope_penalty(lambda x: x @ direction, x), 0.0, atol=1e-6)
    np.testing.assert_allclose(slope_penalty(lambda x: x @ (3.0 * direction), x), 4.0, rtol=1e-5)


def test_the_generator_takes_noise():
    assert Critical(latent_dim=4).input_spec("generator", None, {}).shape == [None, 4]
