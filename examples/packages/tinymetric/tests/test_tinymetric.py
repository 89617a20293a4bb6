from types import SimpleNamespace

import numpy as np
from tinymetric import Encoder, MultiSimilarity, Neighbours


def test_points_lie_on_the_sphere():
    points = Encoder(dimension=3)(np.random.default_rng(0).normal(size=(5, 64)).astype("float32"))
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1.0, rtol=1e-5)


def test_the_loss_is_the_formula():
    points, labels = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], "float32"), np.array([7, 7, 3])
    expected = []
    for i in range(3):
        others = [j for j in range(3) if j != i]
        near = sum(np.exp(-2.0 * (points[i] @ points[j] - 0.5)) for j in others if labels[j] == labels[i])
        far = sum(np.exp(20.0 * (points[i] @ points[j] - 0.5)) for j in others if labels[j] != labels[i])
        expected.append(np.log(1 + near) / 2.0 + np.log(1 + far) / 20.0)
    np.testing.assert_allclose(MultiSimilarity(reduction=None)(labels, points), expected, rtol=1e-5)


def test_a_neighbour_is_another_example():
    points = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    run = SimpleNamespace(models={"model": lambda x, training: points})
    assert Neighbours().evaluate([(None, np.array([1, 1, 2]))], run) == {"nearest_is_alike": 2 / 3}
