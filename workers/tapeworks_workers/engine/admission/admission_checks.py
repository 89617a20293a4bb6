"""What a component of each kind must do before it enters the catalogue.

Interface: `TRIALS[kind](instance, example, notes)`. Raises `AdmissionError` (or whatever the component itself raises)
where it fails, `NotTried` where there is nothing to try it on; smaller findings go to `notes`.

Keras' kinds are written, rebuilt and compared, in config and in output; whatever runs in a training step is traced
with the unknown dimensions of its example, and its gradients must be finite. A trace depends on shapes and dtypes
alone: what fails there is refused. What fails on values is refused where the author gave them, and is a note where
they were invented.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks.components.examples import Form
from tapeworks.components.interfaces import SourceOfSources
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.admission.rebuilding import AdmissionError, rebuilt
from tapeworks_workers.engine.comparison import reset_recurrent_states
from tapeworks_workers.engine.data.example_tensors import Example, NotTried, Part
from tapeworks_workers.engine.data.operations import takes_seed
from tapeworks_workers.engine.diagnostics.error_text import text
from tapeworks_workers.engine.step.checks.metric_signatures import for_steps_only, place, without_sample_weight

WEIGHTS = Form((4, 3), "float32")


def _part(example: Example, name: str, default: Any = None, *, batched: bool = True) -> Part:
    """A part of the example. Raises NotTried where it has none and there is no default."""
    if name not in example and default is None:
        raise NotTried(f"it has no example with {name!r}")
    return Part(example.get(name, default), batched=batched)


@contextmanager
def _on_values(part: Part, notes: list[str]) -> Iterator[None]:
    """What fails inside the block is a note where values were invented: real ones may not lead there."""
    try:
        yield
    except (NotTried, _Differs):
        raise
    except Exception as error:
        if not part.invented:
            raise
        message = text(error) if not isinstance(error, AdmissionError) else str(error)
        name = "" if isinstance(error, AdmissionError) else f"{type(error).__name__}: "
        notes.append(f"on invented values: {name}{message}. Give real values in its example to have it tried on these")


class _Differs(AdmissionError):
    """A rebuilt object gave something else on the same values: certain, whatever the values are."""


def _same(expected: Any, got: Any, what: str) -> None:
    first, second = _parts(expected), _parts(got)
    if len(first) != len(second) or not all(map(_equal, first, second)):
        raise _Differs(f"{what} differ after a reload: something that matters is not in the config or in variables")


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
            raise AdmissionError(f"{what} of its example are not finite")


# ── the trials ───────────────────────────────────────────────────────────────────────────────────


def _layer(layer: Any, example: Example, notes: list[str]) -> None:
    part = _part(example, "inputs")
    inputs = part.values
    try:
        layer(inputs)
        failed = None
    except Exception as error:  # on these values: the trace below says whether on all
        failed = error

    @tf.function(input_signature=[part.specs], autograph=False)
    def forward(values: Any) -> Any:
        return layer(values, training=False)

    # The concrete function: calls of the traced one would be taken for a retracing in a loop, and logged.
    traced = _traced(forward, part.specs)
    again = rebuilt(layer)
    with _on_values(part, notes):
        if failed is not None:
            raise failed
        _finite(traced(inputs), "outputs")
    if failed is not None:
        return
    if len(again.variables) != len(layer.variables):
        raise AdmissionError(
            f"it has {len(layer.variables)} variables, and {len(again.variables)} after a reload: what is first made "
            "or built in `call` of a model that `super().__init__(inputs, outputs)` has built already, or of a layer "
            "with a `build` of its own, is not made again. Make and build it in `__init__` or in `build`"
        )
    again.set_weights(layer.get_weights())
    reset_recurrent_states(layer)
    reset_recurrent_states(again)
    _same(layer(inputs, training=False), again(inputs, training=False), "outputs")
    with _on_values(part, notes):
        _gradients(lambda: layer(inputs, training=True), layer.trainable_variables, notes)


def _traced(function: Any, specs: Any) -> Any:
    """The concrete function. An error of a shape without a batch dimension says what the example was taken for."""
    try:
        return function.get_concrete_function()
    except Exception as error:
        flat = [spec.shape for spec in tf.nest.flatten(specs) if isinstance(spec, tf.TensorSpec)]
        if flat and all(shape.rank is not None and (shape.rank == 0 or shape[0] is not None) for shape in flat):
            raise AdmissionError(
                f"{type(error).__name__}: {text(error)} (the shapes of its example were taken as they are: "
                f"{', '.join(str(tuple(shape)) for shape in flat)}; a batch dimension is written as None, (None, 8))"
            ) from error
        raise


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
    part = _pair(example, loss, notes)
    again = rebuilt(loss)

    @tf.function(input_signature=list(part.specs), autograph=False)
    def value_and_gradient(y: Any, outputs: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            value = loss(y, outputs)
        return value, tape.gradient(value, outputs)

    traced = value_and_gradient.get_concrete_function()
    y_true, y_pred = part.values
    with _on_values(part, notes):
        value, gradient = traced(y_true, y_pred)
        _finite(value, "losses")
        if gradient is None:
            notes.append("no gradient reaches y_pred")
        else:
            _finite(tf.convert_to_tensor(gradient), "gradients")
        _same(loss(y_true, y_pred), again(y_true, y_pred), "values")


def _pair(example: Example, instance: Any, notes: list[str]) -> Part:
    """y_true and y_pred; without an example one float column each, where that can be traced."""
    if "y_true" in example and "y_pred" in example:
        return Part((example["y_true"], example["y_pred"]))
    column = Form((None, 1), "float32")
    part = Part((column, column))
    rebuilt(instance)
    try:
        instance(*part.values)
    except Exception as error:
        raise NotTried(
            f"it has no example with 'y_true' and 'y_pred', and does not take (n, 1): {text(error)}"
        ) from error
    notes.append("tried on y_true and y_pred of shape (n, 1) only: it has no example")
    return part


def _metric(metric: Any, example: Example, notes: list[str]) -> None:
    wrong = without_sample_weight(metric)
    if wrong is not None:
        at = place(metric)
        raise AdmissionError(wrong + (f" ({at.file}, line {at.line})" if at is not None else ""))
    again = rebuilt(metric)
    if (only := for_steps_only(metric)) is not None:
        raise NotTried(only)
    part = _pair(example, metric, notes)
    metric.reset_state()

    @tf.function(input_signature=list(part.specs), autograph=False)
    def update(y: Any, outputs: Any) -> Any:
        metric.update_state(y, outputs, sample_weight=None)
        return metric.result()

    with _on_values(part, notes):
        if not metric.variables:  # some are made at the first update
            metric.update_state(*part.values)
            metric.reset_state()
    traced = update.get_concrete_function()
    with _on_values(part, notes):
        result = traced(*part.values)
        again.update_state(*part.values)
        _same(metric.result(), again.result(), "results")
        _finite(result, "results")
    metric.reset_state()


def _of_weights(instance: Any, example: Example, notes: list[str]) -> None:
    """Regularizers and constraints: a function of one tensor."""
    part, again = _part(example, "inputs", WEIGHTS, batched=False), rebuilt(instance)
    traced = tf.function(instance, autograph=False).get_concrete_function(part.specs)
    with _on_values(part, notes):
        _finite(tf.convert_to_tensor(traced(part.values)), "values")
        _same(instance(part.values), again(part.values), "values")


def _initializer(initializer: Any, example: Example, notes: list[str]) -> None:
    rebuilt(initializer)
    value = initializer((4, 3), dtype="float32")
    if tuple(value.shape) != (4, 3):
        raise AdmissionError(f"asked for shape (4, 3), it gave {tuple(value.shape)}")
    _finite(tf.convert_to_tensor(value), "values")


def _optimizer(optimizer: Any, example: Example, notes: list[str]) -> None:
    rebuilt(optimizer)
    variable = keras.Variable(Part(WEIGHTS).values, name="weights")
    optimizer.build([variable])
    gradient = Part(WEIGHTS).values
    tf.function(lambda: optimizer.apply([gradient]), autograph=False)()
    _finite(variable.value, "variables after one step")


def _schedule(schedule: Any, example: Example, notes: list[str]) -> None:
    again = rebuilt(schedule)
    step = tf.constant(3, tf.int64)
    value = tf.function(schedule, autograph=False)(step)
    _finite(tf.convert_to_tensor(value), "learning rates")
    _same(schedule(step), again(step), "learning rates")


def _transform(transform: Any, example: Example, notes: list[str]) -> None:
    part = _part(example, "inputs", batched=False)
    element = part.specs if isinstance(part.specs, tuple) else (part.specs,)
    values = part.values if isinstance(part.values, tuple) else (part.values,)
    seed = {"seed": tf.constant([0, 0], tf.int64)} if takes_seed(transform) else {}
    traced = tf.function(lambda *parts: transform(*parts, **seed), input_signature=element)
    concrete = traced.get_concrete_function()
    with _on_values(part, notes):
        concrete(*values)


def _dataset_function(function: Any, example: Example, notes: list[str]) -> None:
    part = _part(example, "inputs", batched=False)
    seed = {"seed": 0} if takes_seed(function) else {}
    with _on_values(part, notes):
        given = tf.data.Dataset.from_tensors(part.values).repeat(3)
        made = function(given, **seed)
        if isinstance(made, tf.data.Dataset):
            for _ in made.take(2):
                pass
    if not isinstance(function(tf.data.Dataset.from_tensors(part.values).repeat(3), **seed), tf.data.Dataset):
        raise AdmissionError("it must return a tf.data.Dataset")


def _source(source: Any, example: Example, notes: list[str]) -> None:
    dataset = _combined(source, example) if isinstance(source, SourceOfSources) else source.dataset()
    if not isinstance(dataset, tf.data.Dataset):
        raise AdmissionError(f"dataset() must return a tf.data.Dataset, not {type(dataset).__name__}")
    if any(getattr(spec, "dtype", None) == tf.float64 for spec in tf.nest.flatten(dataset.element_spec)):
        notes.append("its elements hold float64, which a float32 job refuses: cast in dataset()")


def _combined(source: SourceOfSources, example: Example) -> Any:
    """What it makes of sources that hold its example's `inputs`, or plain numbers."""
    part = _part(example, "inputs", Form((), "float32"), batched=False)
    given = tf.data.Dataset.from_tensors(part.values).repeat(3)
    named = isinstance(source.sources, Mapping)
    return source.combine(dict.fromkeys(source.sources, given) if named else [given for _ in source.sources], 0)


def _gradient_transform(transform: Any, example: Example, notes: list[str]) -> None:
    variables = [keras.Variable(Part(WEIGHTS).values) for _ in range(2)]
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

    results = transformed.get_concrete_function()()
    if [tuple(one.shape) for one in results] != [(4, 3), (4, 3)]:
        raise AdmissionError("it must return one gradient for each it was given, of the same shape")
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
