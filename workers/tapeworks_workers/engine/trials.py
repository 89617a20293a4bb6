"""What a component of each kind must do before it enters the catalogue.

Interface: `TRIALS[kind](instance, example, notes)`. Raises `Refusal` (or whatever the component itself raises) where
it fails, `NotTried` where there is nothing to try it on; smaller findings go to `notes`.

Keras' kinds are written, rebuilt and compared, in config and in output; whatever runs in a training step is traced
with the unknown dimensions of its example, and its gradients must be finite.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks.authoring import SourceOfSources
from tapeworks.references import Kind
from tapeworks_workers.engine.comparison import comparable, first_path, reset_recurrent_states
from tapeworks_workers.engine.operations import takes_seed

Example = Mapping[str, Any]


class Refusal(Exception):
    """The component does not do what its kind must."""


class NotTried(Exception):
    """The example, or the lack of one, leaves nothing to try."""


# ── samples ──────────────────────────────────────────────────────────────────────────────────────


def sample(spec: Any, *, size: int = 2) -> Any:
    """Tensors for a nest of specs; unknown dimensions become `size`. Floats lie in 0.1 … 0.9, integers are 0 or 1.

    The rows of a RaggedTensor have 0 and `size` elements in turn, those of a SparseTensor 0 and 1. Parts of one nest
    differ, which y_true and y_pred must: where they are equal many a loss has no gradient.
    """
    random = np.random.default_rng(0)
    return tf.nest.map_structure(lambda part: _sample(part, size, random), spec)


def _sample(spec: Any, size: int, random: np.random.Generator) -> Any:
    if spec.shape.rank is None:
        raise NotTried("its example has a tensor of unknown rank")
    shape = [size if length is None else length for length in spec.shape]
    if isinstance(spec, tf.RaggedTensorSpec):
        splits, rows = [], shape[0]
        for _ in range(spec.ragged_rank):
            lengths = np.arange(rows) % 2 * size
            splits.append(tf.constant(np.concatenate([[0], np.cumsum(lengths)]), spec.row_splits_dtype))
            rows = int(lengths.sum())
        values = _numbers(spec.dtype, [rows, *shape[spec.ragged_rank + 1 :]], random)
        return tf.RaggedTensor.from_nested_row_splits(values, splits)
    if isinstance(spec, tf.SparseTensorSpec):
        indices = np.array([[row, *([0] * (len(shape) - 1))] for row in range(1, shape[0], 2)], np.int64)
        indices = indices.reshape(-1, len(shape))
        return tf.SparseTensor(indices, _numbers(spec.dtype, [len(indices)], random), shape)
    if not isinstance(spec, tf.TensorSpec):
        raise NotTried(f"its example holds a {type(spec).__name__}, which has no sample")
    return _numbers(spec.dtype, shape, random)


def _numbers(dtype: tf.DType, shape: list[int], random: np.random.Generator) -> Any:
    if dtype == tf.string:
        return tf.fill(shape, "a")
    if dtype.is_floating:
        return tf.cast(tf.constant(random.uniform(0.1, 0.9, shape)), dtype)
    return tf.cast(tf.constant(random.integers(0, 2, shape)), dtype)


def _specs(example: Example, *names: str) -> list[Any]:
    missing = [name for name in names if name not in example]
    if missing:
        raise NotTried(f"it has no example with {' and '.join(map(repr, missing))}")
    return [example[name] for name in names]


# ── writing and rebuilding ───────────────────────────────────────────────────────────────────────


def rebuilt(instance: Any) -> Any:
    """The object after a round trip through JSON. Raises Refusal where its config differs afterwards."""
    try:
        written = keras.saving.serialize_keras_object(instance)
        again = keras.saving.deserialize_keras_object(json.loads(json.dumps(written)))
        second = keras.saving.serialize_keras_object(again)
    except Exception as error:
        raise Refusal(
            f"it cannot be written and rebuilt: {type(error).__name__}: {error}. "
            "Leave get_config out and it is derived from __init__"
        ) from error
    where = first_path(_plain(written)["config"], _plain(second)["config"])
    if where is not None:
        raise Refusal(f"its config is another one after a reload: {where.lstrip('/')} differs")
    return again


def _plain(written: Any) -> Any:
    """What an object is, without what its calls and `compile` left: variables and outputs are compared themselves."""
    return comparable(json.loads(json.dumps(written)))


def _same(expected: Any, got: Any, what: str) -> None:
    first, second = _parts(expected), _parts(got)
    if len(first) != len(second) or not all(map(_equal, first, second)):
        raise Refusal(f"{what} differ after a reload: something that matters is not in the config or in variables")


def _equal(one: Any, other: Any) -> bool:
    first, second = np.asarray(one), np.asarray(other)
    if first.dtype.hasobject:  # strings: the bytes of their array are addresses
        return bool(np.array_equal(first, second))
    return first.shape == second.shape and first.tobytes() == second.tobytes()


def _parts(nest: Any) -> list[Any]:
    """The tensors of a nest, ragged and sparse ones by their parts."""
    return list(tf.nest.flatten(nest, expand_composites=True))


def _finite(value: Any, what: str) -> None:
    for tensor in _parts(value):
        if tensor.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(tensor))):
            raise Refusal(f"{what} of its example are not finite")


# ── the trials ───────────────────────────────────────────────────────────────────────────────────


def _layer(layer: Any, example: Example, notes: list[str]) -> None:
    (spec,) = _specs(example, "inputs")
    inputs = sample(spec)
    layer(inputs)

    @tf.function(input_signature=[spec], autograph=False)
    def forward(values: Any) -> Any:
        return layer(values, training=False)

    # The concrete function: calls of the traced one would be taken for a retracing in a loop, and logged.
    outputs = forward.get_concrete_function()(inputs)
    _finite(outputs, "outputs")
    again = rebuilt(layer)
    if len(again.variables) != len(layer.variables):
        raise Refusal(
            f"it has {len(layer.variables)} variables, and {len(again.variables)} after a reload: what is first made "
            "or built in `call` of a model that `super().__init__(inputs, outputs)` has built already, or of a layer "
            "with a `build` of its own, is not made again. Make and build it in `__init__` or in `build`"
        )
    again.set_weights(layer.get_weights())
    reset_recurrent_states(layer)
    reset_recurrent_states(again)
    _same(layer(inputs, training=False), again(inputs, training=False), "outputs")
    _gradients(lambda: layer(inputs, training=True), layer.trainable_variables, notes)


def _gradients(forward: Callable[[], Any], variables: list[Any], notes: list[str]) -> None:
    with tf.GradientTape() as tape:
        outputs = [value for value in _parts(forward()) if value.dtype.is_floating]
        if not outputs or not variables:
            return
        total = tf.add_n([tf.reduce_sum(tf.cast(tf.square(value), tf.float32)) for value in outputs])
    gradients = tape.gradient(total, [variable.value for variable in variables])
    without = [variable.path for variable, one in zip(variables, gradients, strict=True) if one is None]
    if without:
        notes.append(f"no gradient reaches {', '.join(without)} in isolation")
    _finite([tf.convert_to_tensor(one) for one in gradients if one is not None], "gradients")


def _loss(loss: Any, example: Example, notes: list[str]) -> None:
    specs = _pair(example, loss, notes)
    y_true, y_pred = sample(specs)
    again = rebuilt(loss)

    @tf.function(input_signature=list(specs), autograph=False)
    def value_and_gradient(y: Any, outputs: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            value = loss(y, outputs)
        return value, tape.gradient(value, outputs)

    value, gradient = value_and_gradient.get_concrete_function()(y_true, y_pred)
    _finite(value, "losses")
    if gradient is None:
        notes.append("no gradient reaches y_pred")
    else:
        _finite(tf.convert_to_tensor(gradient), "gradients")
    _same(loss(y_true, y_pred), again(y_true, y_pred), "values")


def _pair(example: Example, instance: Any, notes: list[str]) -> tuple[Any, Any]:
    """The specs of y_true and y_pred; without an example one float column each, where that can be traced."""
    if "y_true" in example and "y_pred" in example:
        return example["y_true"], example["y_pred"]
    spec = tf.TensorSpec([None, 1], tf.float32)
    rebuilt(instance)
    try:
        instance(*sample((spec, spec)))
    except Exception as error:
        raise NotTried(f"it has no example with 'y_true' and 'y_pred', and does not take (n, 1): {error}") from error
    notes.append("tried on y_true and y_pred of shape (n, 1) only: it has no example")
    return spec, spec


def _metric(metric: Any, example: Example, notes: list[str]) -> None:
    again = rebuilt(metric)
    specs = _pair(example, metric, notes)
    metric.reset_state()
    values = sample(specs)

    @tf.function(input_signature=list(specs), autograph=False)
    def update(y: Any, outputs: Any) -> Any:
        metric.update_state(y, outputs)
        return metric.result()

    result = update.get_concrete_function()(*values)
    again.update_state(*values)
    _same(metric.result(), again.result(), "results")
    _finite(result, "results")
    metric.reset_state()


def _of_weights(instance: Any, example: Example, notes: list[str]) -> None:
    """Regularizers and constraints: a function of one tensor."""
    spec = example.get("inputs", tf.TensorSpec([4, 3], tf.float32))
    weights, again = sample(spec), rebuilt(instance)
    value = tf.function(instance, autograph=False)(weights)
    _finite(tf.convert_to_tensor(value), "values")
    _same(instance(weights), again(weights), "values")


def _initializer(initializer: Any, example: Example, notes: list[str]) -> None:
    rebuilt(initializer)
    value = initializer((4, 3), dtype="float32")
    if tuple(value.shape) != (4, 3):
        raise Refusal(f"asked for shape (4, 3), it gave {tuple(value.shape)}")
    _finite(tf.convert_to_tensor(value), "values")


def _optimizer(optimizer: Any, example: Example, notes: list[str]) -> None:
    rebuilt(optimizer)
    variable = keras.Variable(sample(tf.TensorSpec([4, 3], tf.float32)), name="weights")
    optimizer.build([variable])
    gradient = sample(tf.TensorSpec([4, 3], tf.float32))
    tf.function(lambda: optimizer.apply([gradient]), autograph=False)()
    _finite(variable.value, "variables after one step")


def _schedule(schedule: Any, example: Example, notes: list[str]) -> None:
    again = rebuilt(schedule)
    step = tf.constant(3, tf.int64)
    value = tf.function(schedule, autograph=False)(step)
    _finite(tf.convert_to_tensor(value), "learning rates")
    _same(schedule(step), again(step), "learning rates")


def _transform(transform: Any, example: Example, notes: list[str]) -> None:
    (spec,) = _specs(example, "inputs")
    element = spec if isinstance(spec, tuple) else (spec,)
    seed = {"seed": tf.constant([0, 0], tf.int64)} if takes_seed(transform) else {}
    traced = tf.function(lambda *parts: transform(*parts, **seed), input_signature=element)
    traced.get_concrete_function()(*sample(element))


def _dataset_function(function: Any, example: Example, notes: list[str]) -> None:
    (spec,) = _specs(example, "inputs")
    given = tf.data.Dataset.from_tensors(sample(spec)).repeat(3)
    if not isinstance(function(given, **({"seed": 0} if takes_seed(function) else {})), tf.data.Dataset):
        raise Refusal("it must return a tf.data.Dataset")


def _source(source: Any, example: Example, notes: list[str]) -> None:
    dataset = _combined(source, example) if isinstance(source, SourceOfSources) else source.dataset()
    if not isinstance(dataset, tf.data.Dataset):
        raise Refusal(f"dataset() must return a tf.data.Dataset, not {type(dataset).__name__}")
    if any(getattr(spec, "dtype", None) == tf.float64 for spec in tf.nest.flatten(dataset.element_spec)):
        notes.append("its elements hold float64, which a float32 job refuses: cast in dataset()")


def _combined(source: SourceOfSources, example: Example) -> Any:
    """What it makes of sources that hold its example's `inputs`, or plain numbers."""
    given = tf.data.Dataset.from_tensors(sample(example.get("inputs", tf.TensorSpec([], tf.float32)))).repeat(3)
    named = isinstance(source.sources, Mapping)
    return source.combine(dict.fromkeys(source.sources, given) if named else [given for _ in source.sources], 0)


def _gradient_transform(transform: Any, example: Example, notes: list[str]) -> None:
    variables = [keras.Variable(sample(tf.TensorSpec([4, 3], tf.float32))) for _ in range(2)]
    transform.build(variables)
    run = SimpleNamespace(
        step=tf.constant(0, tf.int64),
        random_normal=lambda shape, mean=0.0, stddev=1.0, dtype=None: tf.random.stateless_normal(
            shape, [0, 0], mean, stddev, dtype or tf.float32
        ),
        random_uniform=lambda shape, minval=0, maxval=None, dtype=None: tf.random.stateless_uniform(
            shape, [0, 0], minval, maxval, dtype or tf.float32
        ),
    )

    @tf.function(autograph=False)
    def transformed() -> list[Any]:
        sparse = tf.IndexedSlices(tf.ones([2, 3]), tf.constant([0, 2]), tf.constant([4, 3]))
        results = list(transform([tf.ones([4, 3]), sparse], variables, run))
        return [tf.convert_to_tensor(one) for one in results]

    results = transformed()
    if [tuple(one.shape) for one in results] != [(4, 3), (4, 3)]:
        raise Refusal("it must return one gradient for each it was given, of the same shape")
    _finite(results, "gradients")


TRIALS: dict[Kind, Callable[[Any, Example, list[str]], None]] = {
    Kind.LAYER: _layer,
    Kind.MODEL: _layer,
    Kind.LOSS: _loss,
    Kind.METRIC: _metric,
    Kind.REGULARIZER: _of_weights,
    Kind.CONSTRAINT: _of_weights,
    Kind.INITIALIZER: _initializer,
    Kind.OPTIMIZER: _optimizer,
    Kind.SCHEDULE: _schedule,
    Kind.TRANSFORM: _transform,
    Kind.DATASET_FUNCTION: _dataset_function,
    Kind.SOURCE: _source,
    Kind.GRADIENT_TRANSFORM: _gradient_transform,
}
"""Steps, evaluators and callbacks are built, no more: they need a job around them."""
