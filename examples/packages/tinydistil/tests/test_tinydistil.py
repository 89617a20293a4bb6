import keras
import numpy as np
import tensorflow as tf
from tinydistil import Distil, SoftLoss


def test_the_loss_is_keras_divergence_of_softened_outputs():
    random = np.random.default_rng(0)
    teacher, student = (random.normal(size=(4, 10)).astype("float32") for _ in range(2))
    expected = 9.0 * keras.losses.KLDivergence()(tf.nn.softmax(teacher / 3.0), tf.nn.softmax(student / 3.0))
    np.testing.assert_allclose(SoftLoss(temperature=3.0)(teacher, student), expected, rtol=1e-4)
    np.testing.assert_allclose(SoftLoss()(teacher, teacher), 0.0, atol=1e-6)


def test_nobody_trains_the_teacher():
    assert Distil.frozen == ("teacher",)
    assert Distil.can_validate()
