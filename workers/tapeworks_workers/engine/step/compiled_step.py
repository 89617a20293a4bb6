"""The functions that are traced: one training step, one validation step, each with a relaxed signature.

A training step selects the model's inputs, calls the component's `train_step`, adds its scalars to
the running means and counts itself. Nothing is read on the host: see means.py. Its
vector holds the sums (weighted by batch size), the weight, and the number of steps before the first
value that was not finite, which names the step of a `non_finite` failure.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure, Location
from tapeworks_workers.engine.devices import replica as replicas
from tapeworks_workers.engine.diagnostics import source_locations as places
from tapeworks_workers.engine.diagnostics.retracing import Traces
from tapeworks_workers.engine.graph.adam_kernel import one_pass_adam
from tapeworks_workers.engine.graph.autograph import call_user_code, outside_trace
from tapeworks_workers.engine.graph.metric_dependence import MetricState
from tapeworks_workers.engine.graph.randomness import philox
from tapeworks_workers.engine.step.assembly import Assembly

TRAINING, VALIDATION = "training", "validation"


@dataclass
class CompiledStep:
    """A traced step: call it with a batch (tensors or host arrays) of the assembly's element spec."""

    assembly: Assembly
    split: str
    element_spec: Any
    body: Callable[[Any], dict[str, tf.Tensor]]
    names: tuple[str, ...] = ()
    """The scalars it returns, sorted."""
    concrete: Any = None
    """The ConcreteFunction; None where the plan is eager."""

    def __call__(self, batch: Any) -> dict[str, tf.Tensor]:
        self.assembly.devices.renew()
        return self.on_device(as_tensors(batch, self.element_spec))

    @property
    def on_device(self) -> Callable[[Any], dict[str, tf.Tensor]]:
        """The same for a batch of tensors; may be called inside another traced function."""
        return self.body if self.concrete is None else self.concrete


def compile_train_step(
    assembly: Assembly, *, element_spec: Any = None, traces: Traces | None = None, eager: bool = False
) -> CompiledStep:
    """Trace the training step once; calling the result trains one step. Raises JobFailure and what a component raises.

    `element_spec`: where batches are not to be as the assembly says. `eager` runs it without a graph, to debug.
    """
    function = assembly.step.train_step
    return _compile(assembly, TRAINING, function, element_spec=element_spec, traces=traces, eager=eager)


def compile_validation_step(
    assembly: Assembly, *, element_spec: Any = None, traces: Traces | None = None, eager: bool = False
) -> CompiledStep:
    """The same for `validation_step`, which draws from the validation stream and counts no step.

    `element_spec`: where the split's batches differ from the training split's.
    """
    function = assembly.step.validation_step
    return _compile(assembly, VALIDATION, function, element_spec=element_spec, traces=traces, eager=eager)


def step_on_one_device(assembly: Assembly, step: CompiledStep) -> CompiledStep:
    """A training step as a verifier takes it, which has one device: this one, or the same on the first device."""
    if not assembly.devices.several:
        return step
    with assembly.devices.alone():
        return compile_train_step(assembly)


def _compile(
    assembly: Assembly,
    split: str,
    function: Callable[..., Any],
    *,
    element_spec: Any = None,
    traces: Traces | None,
    eager: bool,
) -> CompiledStep:
    element_spec = assembly.element_spec if element_spec is None else element_spec
    run = assembly.run
    training = split == TRAINING

    def body(batch: Any) -> dict[str, tf.Tensor]:
        with contextlib.ExitStack() as stack:
            if traces is not None and not tf.executing_eagerly():
                traces.step(split, element_spec)
                stack.enter_context(tf.variable_creator_scope(traces.variable_made))
            stack.enter_context(philox())
            stack.enter_context(one_pass_adam())
            stack.enter_context(run.streams.using(split))
            batch = assembly.select(batch)
            scalars, latest = _called(function, batch, assembly, split)
            compiled.names = tuple(scalars)
            _accumulate(assembly, split, scalars, batch, latest)
            if training:
                run.counter.assign_add(1)
        return scalars

    compiled = CompiledStep(assembly, split, element_spec, body)
    if not eager:
        traced = tf.function(body, input_signature=[element_spec], autograph=False)
        compiled.concrete = traced.get_concrete_function()
        _put_back(assembly)
    return compiled


def _put_back(assembly: Assembly) -> None:
    """Restored values of variables that tracing made."""
    for name, variable in assembly.variables().items():
        if name in assembly.pending:
            variable.assign(assembly.pending.pop(name))


def _called(
    function: Callable[..., Any], batch: Any, assembly: Assembly, split: str
) -> tuple[dict[str, tf.Tensor], set[str]]:
    """The scalars of a step on a batch, and the names of those that are reported as they were last."""
    run = assembly.run
    run.latest_values = []
    if assembly.devices.several:
        return _called_on_devices(function, batch, assembly, split)
    if not tf.executing_eagerly():
        scalars = _scalars(call_user_code(function, batch, run), assembly, split)
        # Afterwards: a metric may make its variables at its first update.
        dependents = MetricState(assembly.held_metrics()).dependents(scalars)
    else:
        state = MetricState(assembly.held_metrics())
        with state.watching() as tape:
            scalars = _scalars(call_user_code(function, batch, run), assembly, split)
        dependents = state.dependents_by_tape(tape, scalars)
    latest = {id(value) for value in run.latest_values}
    return scalars, dependents | {name for name, value in scalars.items() if id(value) in latest}


def _called_on_devices(
    function: Callable[..., Any], batch: Any, assembly: Assembly, split: str
) -> tuple[dict[str, tf.Tensor], set[str]]:
    """The same of a step that each device runs on its rows: means over all rows, and the last values."""
    run = assembly.run
    traced = assembly.devices.run(lambda part: _scalars(call_user_code(function, part, run), assembly, split), batch)
    last = traced[-1][1]  # its reads of metrics come after every replica's updates
    latest = MetricState(assembly.held_metrics()).dependents(last)
    chosen = {id(value) for value in run.latest_values}
    latest |= {name for name, value in last.items() if id(value) in chosen}
    scalars = {
        name: value if name in latest else replicas.mean([(one.rows, scalars[name]) for one, scalars in traced])
        for name, value in last.items()
    }
    return scalars, latest


def _scalars(returned: Any, assembly: Assembly, split: str) -> dict[str, tf.Tensor]:
    """What a step returned, as scalars sorted by name. Raises JobFailure where it is no dict of scalars."""
    method = "train_step" if split == TRAINING else "validation_step"
    where = places.of_function(getattr(assembly.step, method)) or Location(component=assembly.spec.step.component)
    if not isinstance(returned, Mapping) or not all(isinstance(name, str) for name in returned):
        message = f"{method} must return a dict of named scalars, not {type(returned).__name__}"
        raise JobFailure(FailureCode.COMPONENT_ERROR, message, location=where)
    names = [metric.name for metric in assembly.all_metrics(split)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        message = f"a metric of the spec and the loss of an output are both called {twice[0]!r}"
        raise JobFailure(FailureCode.INVALID_SPEC, message, hint='Give the metric a name: {"config": {"name": "…"}}.')
    taken = set(names)
    scalars = {}
    for name in sorted(returned):
        value = tf.convert_to_tensor(returned[name])
        if value.shape.rank not in (0, None):
            message = f"{method} returned {name!r} of shape {value.shape}: scalars only (tf.reduce_mean?)"
            raise JobFailure(FailureCode.COMPONENT_ERROR, message, location=where)
        if name in taken:
            message = f"{method} returns {name!r}, and a metric of the spec has that name too"
            raise JobFailure(FailureCode.INVALID_SPEC, message, location=where)
        scalars[name] = value
    return scalars


def _accumulate(
    assembly: Assembly, split: str, scalars: Mapping[str, tf.Tensor], batch: Any, latest: Collection[str] = ()
) -> None:
    if split not in assembly.means:
        with outside_trace():
            initial = assembly.pending.pop("run/means", None) if split == TRAINING else None
            initial = np.zeros(len(scalars) + 2) if initial is None else initial
            assembly.means[split] = tf.Variable(initial, dtype=tf.float64, trainable=False, name=f"{split}_means")
    means = assembly.means[split]
    weight = tf.cast(batch_size(batch), tf.float64)
    # A sum that is to be read as the last value is that value times all the weight so far.
    values = [tf.cast(v, tf.float64) * (weight + means[-2] if k in latest else weight) for k, v in scalars.items()]
    replaced = np.array([name in latest for name in scalars] + [False, False])
    before = tf.where(replaced, tf.zeros_like(means), means) if latest else means
    total = before + tf.stack([*values, weight, tf.zeros([], tf.float64)])
    # A sum that is not finite stays so: this counts the steps before the first one. A metric may begin with NaN.
    sums = tf.where(replaced, tf.zeros_like(total), total) if latest else total
    finite = tf.math.is_finite(tf.reduce_sum(sums) + tf.cast(assembly.run.health.read_value(), tf.float64))
    unit = np.zeros(len(scalars) + 2)
    unit[-1] = 1.0
    means.assign(total + unit * tf.cast(finite, tf.float64))


def batch_size(batch: Any) -> tf.Tensor:
    """How many examples a batch holds, from the first tensor of its x."""
    leaf = tf.nest.flatten(batch[0] if isinstance(batch, tuple) else batch)[0]
    if isinstance(leaf, tf.RaggedTensor):
        return leaf.nrows()
    return leaf.dense_shape[0] if isinstance(leaf, tf.SparseTensor) else tf.shape(leaf)[0]


def as_tensors(batch: Any, element_spec: Any) -> Any:
    """Host arrays as tensors of the spec's dtypes."""

    def one(spec: Any, value: Any) -> Any:
        return value if tf.is_tensor(value) else tf.convert_to_tensor(value, spec.dtype)

    return tf.nest.map_structure(one, element_spec, batch)
