"""What enters the catalogue, what is refused and why, and what could not be tried."""

import time
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks import GradientTransform, Source, TrainingStep
from tapeworks.components.loading import load_installed
from tapeworks.components.registry import registry
from tapeworks.schemas.jobs import RefusedComponent
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.admission.admission import admit_all
from tapeworks_workers.engine.data.example_tensors import sample
from tests.support.admitting import reason, warned

BUILT_IN = [
    ("source", "digits"), ("source", "iris"), ("source", "breast_cancer"), ("source", "diabetes"),
    ("source", "arrays"), ("source", "csv"), ("loss", "focal"), ("model", "sequential"), ("model", "functional"),
    ("model", "mlp"), ("model", "convnet"), ("layer", "gated_residual"), ("metric", "macro_f_beta"),
    ("regularizer", "orthogonal"), ("gradient_transform", "clip_by_global_norm"), ("transform", "scale"),
    ("transform", "class_weight"), ("step", "supervised"),
    ("layer", "residual"), ("layer", "glu"), ("layer", "ragged_to_dense"), ("layer", "attention_pooling"),
    ("layer", "sparse_dense"), ("layer", "embedding_bag"), ("layer", "reparameterize"), ("regularizer", "group_lasso"),
    ("constraint", "unit_ball"), ("schedule", "warmup_cosine"), ("optimizer", "lookahead"),
    ("gradient_transform", "clip_by_value"), ("gradient_transform", "clip_by_norm"),
    ("gradient_transform", "adaptive_clip"), ("gradient_transform", "noise"), ("gradient_transform", "centralize"),
    ("model", "resnet"), ("model", "autoencoder"), ("model", "vae"), ("model", "gaussian_encoder"),
    ("model", "decoder"), ("model", "generator"), ("model", "discriminator"), ("model", "two_tower"),
    ("model", "text_classifier"), ("model", "transformer_encoder"), ("initializer", "delta_orthogonal"),
]  # fmt: skip

VECTORS = tf.TensorSpec([None, 4], tf.float32)


# ── the built-ins ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_every_built_in_is_admitted_in_little_time() -> None:
    load_installed()
    broken = RefusedComponent(name="acme_broken", reason="SyntaxError: …")
    registry.refused.append(broken)
    began = time.process_time()  # other processes may be at work
    catalogue = admit_all()
    seconds = time.process_time() - began
    assert [one for one in catalogue.refused if "/" not in one.name] == [broken], "what could not be imported"
    entries = {(one.kind.value, one.name): one for one in catalogue.components}
    assert set(BUILT_IN) <= set(entries)
    untried = {name: one.warnings for (_, name), one in entries.items() if one.warnings and "/" not in name}
    files = {"arrays", "csv", "images", "jsonl", "parquet", "text", "tfrecord"}
    assert set(untried) == files | {"pretrained", "sql", "decode_image"}, "they read files, jobs or databases"
    assert ("layer", "keras/Dense") in entries
    assert seconds < 90, "about 5 s of one core, and more for what other tests of the process have registered"
    assert catalogue.model_dump_json() == admit_all().model_dump_json(), "known by its digest"


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────


def test_a_config_that_forgets_an_argument_is_refused() -> None:
    class Forgets(keras.layers.Layer):
        def __init__(self, units: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.units = units

        def call(self, x: Any) -> Any:
            return x * self.units

        def get_config(self) -> dict[str, Any]:
            return super().get_config()

    assert "cannot be written and rebuilt" in reason(Forgets, example={"config": {"units": 3}, "inputs": VECTORS})


def test_state_outside_config_and_variables_is_refused() -> None:
    class Hidden(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.noise = np.random.default_rng().normal()

        def call(self, x: Any) -> Any:
            return x * self.noise

    assert "outputs differ after a reload" in reason(Hidden, example={"inputs": VECTORS})


REAL = np.array([[0.2, 0.4, 0.1, 0.3], [0.5, 0.1, 0.7, 0.2]])


def test_a_loss_that_is_not_finite_is_refused_on_real_values_and_a_warning_on_invented_ones() -> None:
    class Log(keras.losses.Loss):
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return tf.math.log(y_pred - y_pred)

    assert "losses of its example are not finite" in reason(Log, example={"y_true": REAL, "y_pred": 2 * REAL})
    (warning,) = warned(Log, example={"y_true": VECTORS, "y_pred": VECTORS})
    assert warning.startswith("on invented values: losses of its example are not finite")


def test_a_gradient_that_is_not_finite_is_refused() -> None:
    class Root(keras.losses.Loss):
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return tf.sqrt(tf.reduce_sum(tf.square(y_pred - tf.stop_gradient(y_pred)), -1))

    assert "gradients of its example are not finite" in reason(Root, example={"y_true": REAL, "y_pred": 2 * REAL})
    (warning,) = warned(Root, example={"y_true": VECTORS, "y_pred": VECTORS})
    assert "gradients of its example are not finite" in warning


def test_numpy_in_the_graph_is_refused_with_its_line() -> None:
    class Numpy(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x * np.asarray(x).mean()

    told = reason(Numpy, example={"inputs": VECTORS})
    assert "NotImplementedError" in told
    assert f"({__file__}, line " in told


def test_a_transform_of_numpy_a_source_of_lists_and_a_short_gradient_transform_are_refused() -> None:
    def flip(x: Any) -> Any:
        return np.flip(np.asarray(x))

    class Lists(Source):
        def dataset(self) -> Any:
            return [1, 2, 3]

    class First(GradientTransform):
        def __call__(self, gradients: Any, variables: Any, run: Any) -> Any:
            return gradients[:1]

    class DenseOnly(GradientTransform):
        def __call__(self, gradients: Any, variables: Any, run: Any) -> Any:
            return [gradient.shape.rank for gradient in gradients]

    assert "NotImplementedError" in reason(flip, example={"inputs": VECTORS})
    assert "must return a tf.data.Dataset, not list" in reason(Lists)
    assert "one gradient for each" in reason(First)
    assert reason(DenseOnly)


def test_an_example_that_does_not_fit_is_refused() -> None:
    class Needs(keras.layers.Layer):
        def __init__(self, units: int) -> None:
            super().__init__()

    assert "/config/unit: trial/Needs has no argument 'unit'" in reason(
        Needs, example={"config": {"unit": 1, "units": 1}}
    )


# ── warnings ─────────────────────────────────────────────────────────────────────────────────────


def test_a_variable_without_a_gradient_is_a_warning() -> None:
    class Idle(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.used = self.add_weight(shape=(), name="used")
            self.unused = self.add_weight(shape=(), name="unused")

        def call(self, x: Any) -> Any:
            return x * self.used

    (warning,) = warned(Idle, example={"inputs": VECTORS})
    assert "no gradient reaches" in warning
    assert "unused" in warning


def test_without_an_example_what_was_not_tried_is_told() -> None:
    class Layer(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x

    class Needs(keras.layers.Layer):
        def __init__(self, units: int) -> None:
            super().__init__()

    class Mean(keras.losses.Loss):
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return tf.reduce_mean(tf.square(y_true - y_pred), -1)

    class Sparse(keras.losses.Loss):
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return keras.losses.sparse_categorical_crossentropy(tf.squeeze(y_true, 5), y_pred)

    assert warned(Layer) == ["not tried: it has no example with 'inputs'"]
    assert warned(Needs) == ["not tried: 'units' has no default and the component has no example that gives it"]
    assert warned(Mean) == ["tried on y_true and y_pred of shape (n, 1) only: it has no example"]
    assert "does not take (n, 1)" in warned(Sparse)[0]


def test_float64_of_a_source_and_a_python_warning_are_told() -> None:
    class Doubles(Source):
        def dataset(self) -> Any:
            return tf.data.Dataset.from_tensor_slices(np.zeros((3, 2)))

    assert warned(Doubles) == ["its elements hold float64, which a float32 job refuses: cast in dataset()"]


# ── every kind has a trial that passes ───────────────────────────────────────────────────────────


def test_one_good_component_of_every_kind() -> None:
    class Decay(keras.optimizers.schedules.LearningRateSchedule):
        def __init__(self, rate: float = 0.1) -> None:
            self.rate = rate

        def __call__(self, step: Any) -> Any:
            return self.rate / (1.0 + tf.cast(step, tf.float32))

    class Sign(keras.optimizers.Optimizer):
        def __init__(self, learning_rate: Any = 0.01, **kwargs: Any) -> None:
            super().__init__(learning_rate=learning_rate, **kwargs)

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            self.assign_sub(variable, tf.cast(learning_rate, variable.dtype) * tf.sign(gradient))

    class Half(keras.constraints.Constraint):
        def __call__(self, w: Any) -> Any:
            return w / 2

    class Ones(keras.initializers.Initializer):
        def __call__(self, shape: Any, dtype: Any = None) -> Any:
            return tf.ones(shape, dtype)

    class Step(TrainingStep):
        pass

    class Two(keras.Model):
        def __init__(self, units: int = 3, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.embedding = keras.layers.Embedding(5, units)

        def call(self, x: Any) -> Any:
            return self.embedding(x["id"]) + x["value"][:, None]

    def windows(dataset: Any, *, size: int = 2) -> Any:
        return dataset.batch(size)

    inputs = {"id": tf.TensorSpec([None], tf.int32), "value": tf.TensorSpec([None], tf.float32)}
    for target, registration in [
        (Decay, {}), (Sign, {}), (Half, {}), (Ones, {}), (Step, {}), (Two, {"example": {"inputs": inputs}}),
        (windows, {"kind": Kind.DATASET_FUNCTION, "example": {"inputs": VECTORS}}),
    ]:  # fmt: skip
        assert warned(target, **registration) == [], target


# ── what is neither dense nor of known rank ──────────────────────────────────────────────────────

SAMPLED = [
    tf.RaggedTensorSpec([None, None], tf.int32),
    tf.RaggedTensorSpec([None, None, None, 3], tf.float32, ragged_rank=2, row_splits_dtype=tf.int32),
    tf.RaggedTensorSpec([3, None], tf.string),
    tf.SparseTensorSpec([None, 5], tf.float32),
    tf.SparseTensorSpec([4, None, 2], tf.int64),
]


@pytest.mark.parametrize("spec", SAMPLED, ids=str)
def test_a_sample_fits_its_spec_and_has_an_empty_row(spec: Any) -> None:
    value = sample({"x": spec})["x"]
    assert spec.is_compatible_with(value)
    if isinstance(value, tf.RaggedTensor):
        assert value.row_lengths().numpy().tolist()[:2] == [0, 2]
    else:
        assert set(value.indices[:, 0].numpy().tolist()) == set(range(1, value.shape[0], 2))


def test_layers_of_and_into_ragged_and_sparse_tensors_are_compared() -> None:
    class Scale(keras.layers.Layer):
        def __init__(self, factor: float = 2.0, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.factor = factor

        def call(self, x: Any) -> Any:
            return {"ragged": x["ragged"].with_values(x["ragged"].values * self.factor), "sparse": x["sparse"]}

        def compute_output_spec(self, x: Any) -> Any:
            return x

    class Forgetful(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.noise = np.random.default_rng().normal()

        def call(self, x: Any) -> Any:
            return tf.SparseTensor(x.indices, x.values * self.noise, x.dense_shape)

    class Reciprocal(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x.with_values(1.0 / (x.values - x.values))

        def compute_output_spec(self, x: Any) -> Any:
            return x

    sparse = tf.SparseTensorSpec([None, 5], tf.float32)
    inputs = {"ragged": tf.RaggedTensorSpec([None, None], tf.float32), "sparse": sparse}
    assert warned(Scale, example={"inputs": inputs}) == []
    assert "outputs differ after a reload" in reason(Forgetful, example={"inputs": sparse})
    rows = tf.ragged.constant([[0.1], [0.2, 0.3]])
    assert "outputs of its example are not finite" in reason(Reciprocal, example={"inputs": rows})


def test_an_example_without_a_sample_is_told() -> None:
    class Layer(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x

    (warning,) = warned(Layer, example={"inputs": tf.TensorSpec(None)})
    assert warning == "not tried: its example has a tensor of unknown rank"
