import numpy as np
import tensorflow as tf
from tinygan import Adversarial, cross_entropy, generator


def test_pictures_lie_between_0_and_1():
    pictures = np.asarray(generator(pixels=64)(tf.random.normal([3, 16])))
    assert pictures.shape == (3, 64)
    assert 0 <= pictures.min() <= pictures.max() <= 1


def test_each_network_has_an_optimizer_of_its_own():
    step = Adversarial(latent_dim=4)
    assert step.optimizers == {role: (role,) for role in step.models}
    assert step.input_spec("generator", None, {}).shape == [None, 4]


def test_no_idea_costs_the_logarithm_of_two():
    np.testing.assert_allclose(cross_entropy(0.9, tf.zeros([5, 1])), np.log(2.0), rtol=1e-6)
