"""Every built-in model comes back: from `.keras` in each precision, and from a SavedModel with plain TensorFlow."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks.spec.job_spec import ModelSpec
from tapeworks_workers.engine.export.model_files import save_saved_model
from tapeworks_workers.engine.models.build import build_model

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(4, 7, 5, 2)).astype("float32")
VECTORS = RANDOM.normal(size=(4, 6)).astype("float32")
IDS = tf.ragged.constant([[1, 2, 3], [], [4], [0, 1]], dtype=tf.int64)
RATINGS = tf.SparseTensor([[0, 1], [2, 4], [2, 0]], tf.constant([0.5, 2.0, 1.0]), [4, 5])

MODELS: list[tuple[str, dict[str, Any], Any]] = [
    ("resnet", {"outputs": 3, "widths": [2, 3], "blocks": 1, "dropout": 0.5}, IMAGES),
    ("autoencoder", {"code": 2, "hidden": [5], "filters": [3, 4]}, IMAGES),
    ("vae", {"latent": 2, "hidden": [5]}, VECTORS),
    ("gaussian_encoder", {"latent": 2, "filters": [3]}, IMAGES),
    ("decoder", {"shape": [7, 5, 2], "hidden": [4], "filters": [3, 2]}, VECTORS),
    ("generator", {"shape": [7, 5, 2], "filters": [3, 2], "hidden": [4]}, VECTORS),
    ("discriminator", {"filters": [3, 2], "hidden": [4], "normalization": "spectral"}, IMAGES),
    (
        "two_tower",
        {"ids": {"user": 5}, "item_features": ["ratings", "age"], "dimension": 3, "hidden": [4], "outputs": "all"},
        {"user": IDS, "ratings": RATINGS, "age": VECTORS[:, 0]},
    ),
    ("text_classifier", {"outputs": 3, "vocabulary_size": 5, "pooling": "attention", "hidden": [4]}, IDS),
    ("text_classifier", {"outputs": 3, "vocabulary": ["good", "bad"]}, tf.constant(["Good!", "", "so bad", "bad"])),
    (
        "transformer_encoder",
        {"outputs": 3, "vocabulary_size": 5, "dimension": 4, "heads": 2, "layers": 1, "max_length": 8},
        IDS,
    ),
    (
        "transformer_encoder",
        {"outputs": 3, "dimension": 4, "heads": 2, "layers": 1, "pooling": "none"},
        tf.RaggedTensor.from_row_lengths(VECTORS, [2, 0, 1, 1]),
    ),
]
PRECISIONS = {"mixed_float16": ("float32", "float16"), "float64": ("float64", "float64")}


@pytest.fixture(params=MODELS, ids=lambda case: case[0])
def case(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any], Any]:
    return request.param


@pytest.fixture(autouse=True)
def floatx() -> Any:
    yield
    keras.config.set_floatx("float32")


def specs_of(x: Any) -> Any:
    """The element's specs, the batch and ragged dimensions open."""

    def one(value: Any) -> Any:
        spec = tf.type_spec_from_value(tf.convert_to_tensor(value) if isinstance(value, np.ndarray) else value)
        shape = [None, *spec.shape[1:]]
        if isinstance(spec, tf.RaggedTensorSpec):
            return tf.RaggedTensorSpec(shape, spec.dtype, spec.ragged_rank, spec.row_splits_dtype)
        return type(spec)(shape, spec.dtype)

    return tf.nest.map_structure(one, x)


def built(name: str, config: dict[str, Any], x: Any) -> keras.Model:
    """The model as a job builds it, trained by nobody, but with every weight set to something."""
    reference = ModelSpec.model_validate({"component": name, "config": config})
    model, _ = build_model(reference, specs_of(x), pointer="/model")
    generator = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign(generator.normal(size=variable.shape) / 2)
    return model


def of_floats(x: Any, dtype: str) -> Any:
    return tf.nest.map_structure(lambda one: tf.cast(one, dtype) if one.dtype in ("float32", tf.float32) else one, x)


def parts(nest: Any) -> list[np.ndarray]:
    return [np.asarray(one) for one in tf.nest.flatten(nest, expand_composites=True)]


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_file_brings_back_the_model(case: Any, precision: str, tmp_path: Path) -> None:
    name, config, x = case
    floatx, compute = PRECISIONS[precision]
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(precision)
    x = of_floats(x, floatx)
    model = built(name, config, x)
    outputs = parts(model(x, training=False))
    assert all(one.dtype == compute and np.isfinite(one).all() for one in outputs)
    assert {variable.dtype for variable in model.trainable_variables} == {floatx}
    model.save(tmp_path / "model.keras")
    keras.config.set_dtype_policy("float32")
    again = keras.models.load_model(tmp_path / "model.keras")
    for expected, got in zip(outputs, parts(again(x, training=False)), strict=True):
        np.testing.assert_array_equal(expected, got)


@pytest.mark.slow
def test_plain_tensorflow_serves_it(case: Any, tmp_path: Path) -> None:
    name, config, x = case
    x = tf.nest.map_structure(lambda one: one if tf.is_tensor(one) else tf.constant(one), x)
    model, spec = built(name, config, x), specs_of(x)
    expected = parts(model(x, training=False))
    names = save_saved_model(model, spec, {}, tmp_path / "1", others={})
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    for one, got in zip(expected, parts(loaded.serving_default(x)), strict=True):
        np.testing.assert_allclose(got, one, rtol=1e-5, atol=1e-6)
    dense = all(isinstance(leaf, tf.Tensor) for leaf in tf.nest.flatten(x))
    assert ("serving_flat" in loaded.signatures) is not dense
    if not dense:
        given = dict(zip(names["flat"]["inputs"], tf.nest.flatten(x, expand_composites=True), strict=True))
        outputs = loaded.signatures["serving_flat"](**given)
        for one, got in zip(expected, [outputs[key] for key in names["flat"]["outputs"]], strict=True):
            np.testing.assert_allclose(got, one, rtol=1e-5, atol=1e-6)


def test_gradients_reach_every_variable(case: Any) -> None:
    name, config, x = case
    model = built(name, config, x)
    with tf.GradientTape() as tape:
        outputs = tf.nest.flatten(model(x, training=True))
        total = tf.add_n([tf.reduce_sum(tf.square(one)) for one in outputs] + list(model.losses))
    gradients = tape.gradient(total, [variable.value for variable in model.trainable_variables])
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None, variable.path
        assert np.isfinite(tf.convert_to_tensor(gradient)).all(), variable.path
