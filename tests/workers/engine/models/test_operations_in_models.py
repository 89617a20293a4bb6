"""Functional models that call `keras.ops`: trained, exported and reloaded with a certificate, equal to plain Keras."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import tapeworks
from tapeworks.components.loading import load_installed
from tapeworks.errors import ComponentError
from tapeworks.spec.references import Kind
from tapeworks_workers.components.models.functional import OF_FUNCTIONS, OPERATIONS
from tapeworks_workers.engine.factory.factory import build
from tests.support.tiers import some
from tests.workers.engine.conftest import exported, trained

load_installed()
DATA = {"source": "iris", "pipeline": [{"op": "batch", "batch_size": 16}]}
ELEMENT = (tf.TensorSpec([None, 4], tf.float32), tf.TensorSpec([None, 1], tf.float32))
Verify = Callable[[str, Path], dict[str, Any]]

CALLS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "cast": lambda x, image, square: ops.cast(x, "float16"),
    "saturate_cast": lambda x, image, square: ops.saturate_cast(x, "int8"),
    "stop_gradient": lambda x, image, square: ops.stop_gradient(x),
    "slice": lambda x, image, square: ops.slice(x, [0, 1], [2, 2]),
    "unstack": lambda x, image, square: ops.unstack(x, axis=1),
    "scatter_update": lambda x, image, square: ops.scatter_update(x, [[0, 1]], [1.0]),
    "slice_update": lambda x, image, square: ops.slice_update(x, [0, 1], np.ones((2, 2), "float32")),
    "norm": lambda x, image, square: ops.norm(x, axis=-1, keepdims=True),
    "frobenius": lambda x, image, square: ops.linalg.norm(square, ord="fro", axis=(1, 2)),
    "cholesky": lambda x, image, square: ops.cholesky(square),
    "det": lambda x, image, square: ops.det(square),
    "eigh": lambda x, image, square: ops.linalg.eigh(square)[0],
    "inv": lambda x, image, square: ops.inv(square),
    "pinv": lambda x, image, square: ops.linalg.pinv(square),
    "qr": lambda x, image, square: ops.qr(square),
    "solve": lambda x, image, square: ops.solve_triangular(square, square, lower=True),
    "svd": lambda x, image, square: ops.svd(square, compute_uv=False),
    "resize": lambda x, image, square: ops.image.resize(image, (3, 3)),
    "grayscale": lambda x, image, square: ops.image.rgb_to_grayscale(image),
    "patches": lambda x, image, square: ops.image.extract_patches(image, (2, 2)),
    "blur": lambda x, image, square: ops.image.gaussian_blur(image, (3, 3), (1.0, 1.0)),
    "sobel": lambda x, image, square: ops.image.sobel_edges(image),
    "item": lambda x, image, square: image[:, 1:3, ..., ::2],
    "new axis": lambda x, image, square: x[:, None],
    "einsum": lambda x, image, square: ops.einsum("bij,bjk->bik", square, square),
    "top_k": lambda x, image, square: ops.top_k(x, 2),
    "conv": lambda x, image, square: ops.conv(image, np.ones((2, 2, 3, 2), "float32"), padding="same"),
    "attention": lambda x, image, square: ops.dot_product_attention(image, image, image),
    "layer_normalization": lambda x, image, square: ops.layer_normalization(x),
    "relu": lambda x, image, square: keras.activations.relu(x, negative_slope=0.1, max_value=0.8),
    "gelu": lambda x, image, square: keras.activations.gelu(x, approximate=True),
    "where": lambda x, image, square: ops.where(x > 0.5, x, -x),
    "rearrange": lambda x, image, square: ops.rearrange(ops.zeros((2, 6, 4)) + x[:1, None], "b h c -> b (h c)"),
}


def from_keras(model: keras.Model, **changes: Any) -> Any:
    model.compile(keras.optimizers.SGD(0.05), "mse")
    return tapeworks.from_keras(model, data=DATA, **changes)


@pytest.mark.parametrize(
    "name", some(CALLS, {"cast", "norm", "stop_gradient", "resize", "item", "rearrange"}.__contains__)
)
def test_an_operation_comes_back_as_it_was(name: str) -> None:
    inputs = [keras.Input((4,), name="x"), keras.Input((6, 6, 3), name="image"), keras.Input((3, 3), name="square")]
    outputs = keras.tree.flatten(CALLS[name](*inputs))
    model = keras.Model(inputs, [keras.layers.Identity()(output) for output in outputs])
    again = build(json.loads(json.dumps(from_keras(model).document()))["models"]["model"], Kind.MODEL)
    generator = np.random.default_rng(0)
    square = generator.random((2, 3, 3), np.float32)
    values = [generator.random((2, 4), np.float32), generator.random((2, 6, 6, 3), np.float32)]
    values.append(square @ square.transpose(0, 2, 1) + np.eye(3, dtype=np.float32))
    for expected, found in zip(model(values), again(values), strict=True):
        np.testing.assert_array_equal(expected, found)


def model_of_operations() -> keras.Model:
    x = keras.Input((4,), name="x")
    hidden = keras.layers.Dense(6, kernel_initializer=keras.initializers.GlorotUniform(3), name="hidden")(x)
    hidden = hidden / (ops.norm(hidden, axis=-1, keepdims=True) + 1e-6)
    gate = ops.stop_gradient(keras.activations.sigmoid(hidden))
    halves = ops.split(hidden * gate, 2, axis=-1)
    joined = ops.concatenate([halves[0], ops.cast(ops.cast(halves[1], "float16"), "float32")], axis=-1)
    image = ops.image.resize(ops.reshape(joined, (-1, 2, 3, 1)), (4, 6))
    summed = keras.layers.Flatten()(image)
    return keras.Model(
        x, keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(4), name="y")(summed)
    )


@pytest.mark.slow
def test_a_model_of_operations_trains_as_fit_does_and_reloads(tmp_path: Path, verify: Verify) -> None:
    model = model_of_operations()
    spec = from_keras(model).document()
    generator = np.random.default_rng(5)
    x = generator.standard_normal((64, 4)).astype(np.float32)
    y = x[:, :1] - 2 * x[:, 1:2]
    assembly = trained(spec, element=ELEMENT, data=[(x[at : at + 16], y[at : at + 16]) for at in range(0, 64, 16)])
    model.fit(x, y, batch_size=16, shuffle=False, verbose=0)
    for ours, theirs in zip(assembly.models["model"].get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    draft = exported(assembly, tmp_path / "bundle", data=[(x[:16], y[:16])])
    for verifier in ("reload", "certify"):
        answer = verify(verifier, draft.folder)
        assert answer["ok"], answer


def test_operations_that_call_a_function_are_refused() -> None:
    x = keras.Input((4,), name="x")
    with pytest.warns(UserWarning, match="lambda"):
        with pytest.raises(ComponentError, match="code"):
            from_keras(keras.Model(x, ops.map(lambda row: 2 * row, x)))
    with pytest.raises(ComponentError, match="no config"):
        from_keras(keras.Model(x, ops.fori_loop(0, 3, lambda i, state: 2 * state, x)))


def test_every_operation_is_allowed_or_calls_a_function() -> None:
    """The modules hold every operation that a functional model may record; what takes a callable is listed."""

    def below(cls: type) -> set[type]:
        return {cls, *(one for child in cls.__subclasses__() for one in below(child))}

    operations = {cls for cls in below(keras.Operation) if cls.__module__.startswith("keras.src.ops.")}
    elsewhere = {f"{cls.__module__}.{cls.__name__}" for cls in operations if cls.__module__ not in OPERATIONS}
    assert elsewhere <= {"keras.src.ops.function.Function", "keras.src.ops.operation.Operation"}
    callables = {"f", "fn", "func", "function", "fun", "true_fn", "body", "body_fun", "cond", "branches", "pyfunc"}
    for cls in operations:
        given = {*inspect.signature(cls.__init__).parameters, *inspect.signature(cls.call).parameters}
        assert not given & callables or cls.__name__ in OF_FUNCTIONS, cls
