"""A job built and traced as training would, two seconds of it run, and what that tells: the result of a validation.

`inspect` takes the runner's own parts, so that what is validated is what would be trained. The steps change values in
this process only, which ends with the validation. The runner exports and reloads the models afterwards.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tapeworks.schemas.jobs import State
from tapeworks.spec.job_spec import JobSpec
from tapeworks_workers.engine.data.pipeline import Data, Split
from tapeworks_workers.engine.graph.element_spec import documents
from tapeworks_workers.engine.graph.flops import flops
from tapeworks_workers.engine.reporting import Reporter
from tapeworks_workers.engine.step.assembly import Assembly
from tapeworks_workers.engine.step.compiled_step import compile_train_step
from tapeworks_workers.engine.training.control import Control
from tapeworks_workers.engine.training.evaluation import Evaluation
from tapeworks_workers.engine.training.loop import Training
from tapeworks_workers.engine.validation.estimate import Measurements, quote

STEP_SECONDS = 2.0
SPLIT_SECONDS = 0.5
WAIT_SECONDS = 0.5
MUCH_WAIT = 0.2
CARED_SECONDS = 10.0
"""Of waiting in the whole job: the pipeline of a short job is always beginning."""
COUNT_SECONDS = 1.0
"""For the batches of a source that does not know its size."""


def inspect(
    assembly: Assembly,
    data: Data,
    *,
    training: Training,
    evaluation: Evaluation,
    reporter: Reporter,
    control: Control,
    build_seconds: float,
    traces: Mapping[str, int],
) -> dict[str, Any]:
    """The `result` of a validation. Raises what training would raise in its first seconds."""
    reporter.enter(State.RUNNING, "rehearsing")
    calls = training.rehearse(STEP_SECONDS)
    waited = training.input_wait(calls, WAIT_SECONDS)
    splits = [split for split in (data.validation, data.test) if split is not None and evaluation.by_step]
    evaluations = [(_count(split), *_evaluated(evaluation, assembly, split)) for split in splits]
    control.check_time()
    measured = Measurements(build_seconds, calls, evaluations, _peak_bytes())
    per_epoch = training.counters.steps_per_epoch or _count(data.training)
    quoted = quote(assembly.spec, measured, steps_per_epoch=per_epoch)
    if waited is not None and waited > MUCH_WAIT and _costs(waited, measured, quoted["steps"]):
        reporter.diagnostic("input_wait", f"{waited:.0%} of a step is waiting for data", hint=_faster(assembly.spec))
    return {
        "element_spec": documents(data.element_spec),
        "models": {role: _model(assembly, role) for role in assembly.models},
        "parameters": sum(_size(model.variables) for model in assembly.models.values()),
        "state_bytes": sum(_bytes(variable) for variable in assembly.variables().values()),
        "memory_bytes": measured.memory_bytes,
        "flops_per_step": _flops(assembly, data),
        "plan": {"name": training.counters.plan, "steps_per_second": measured.steps_per_second},
        "input_wait": waited,
        "traces": dict(traces),
        "warnings": list(reporter.diagnostics),
        "quote": quoted,
    }


def _evaluated(evaluation: Evaluation, assembly: Assembly, split: Split) -> tuple[int, float]:
    """(steps, seconds) of a part of a split, less its first step."""
    means, plan = evaluation.trace(split)
    means.reset()
    iterator = iter(split.dataset(0))
    plan.run(iterator, 1)
    began = time.monotonic()
    steps = 0
    while time.monotonic() - began < SPLIT_SECONDS and (done := plan.run(iterator, 8)) > 0:
        steps += done
    seconds = time.monotonic() - began
    for loss in assembly.losses.values():
        loss.check_labels()
    return max(steps, 1), seconds


def _costs(waited: float, measured: Measurements, steps: int | None) -> bool:
    """Whether the whole job waits long enough for anybody to care."""
    rate = measured.steps_per_second
    return steps is None or rate is None or waited * steps / rate > CARED_SECONDS


def _faster(spec: JobSpec) -> str:
    """The operation to change: the first that works on every element and is not behind a cache."""
    operations = [operation.op for operation in spec.data.pipeline]
    last_cache = max((index for index, op in enumerate(operations) if op == "cache"), default=-1)
    for index, op in enumerate(operations[last_cache + 1 :], start=last_cache + 1):
        if op in ("map", "filter", "apply"):
            return (
                f'data.pipeline/{index} ({op}) works on every pass: put {{"op": "cache"}} after it, or batch before it.'
            )
    if last_cache < 0:
        return 'Put {"op": "cache"} before the shuffle, where the data fits in memory.'
    return "Use a larger batch: fewer, larger pieces go through the pipeline."


def _count(split: Split) -> int | None:
    """The batches of a pass where they can be counted in a second."""
    if split.steps is not None:
        return split.steps
    until, steps = time.monotonic() + COUNT_SECONDS, 0
    for _ in split.dataset(0):
        steps += 1
        if time.monotonic() > until:
            return None
    return steps


def _model(assembly: Assembly, role: str) -> dict[str, Any]:
    model, given = assembly.models[role], assembly.input_specs[role]
    traced = tf.function(lambda inputs: model(inputs, training=False), input_signature=[given], autograph=False)
    return {
        "inputs": documents(given, "inputs"),
        "outputs": documents(traced.get_concrete_function().structured_outputs, "outputs"),
        "parameters": _size(model.variables),
        "trainable": _size(model.trainable_variables),
    }


def _size(variables: Any) -> int:
    return sum(math.prod(variable.shape) for variable in variables)


def _bytes(variable: tf.Variable) -> int:
    return int(variable.shape.num_elements() or 0) * int(variable.dtype.size)


def _peak_bytes() -> int:
    """Of the device where there is one that tells, else of this process: TensorFlow, the data and the model."""
    if tf.config.list_physical_devices("GPU"):
        return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _flops(assembly: Assembly, data: Data) -> int | None:
    """Of a training step on the first batch: a graph of its shapes is traced. None for ragged and sparse batches."""
    specs = tf.nest.flatten(assembly.element_spec)
    if assembly.spec.training.execution.plan == "eager" or not all(isinstance(spec, tf.TensorSpec) for spec in specs):
        return None
    batch = next(iter(data.training.dataset(0)))
    shaped = tf.nest.map_structure(lambda value: tf.TensorSpec(value.shape, value.dtype), batch)
    return flops(compile_train_step(assembly, element_spec=shaped).concrete.graph)
