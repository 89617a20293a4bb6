"""The metrics of a spec: named as Keras names them, fed by `run.update_metrics`, read once a report.

A name is `config.name` or the class in snake case; `ROLE_` and `OUTPUT_` go before it where there
is more than one, and a name that is taken gets a number, as in `fit`. Only metrics marked `weighted`
see sample weights, as in Keras.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure
from tapeworks.spec.job_spec import JobSpec, MetricSpec, OutputMetrics
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.diagnostics.error_owners import of_part, shapes
from tapeworks_workers.engine.diagnostics.example_mixing import Added, crossings, declared, note_of
from tapeworks_workers.engine.diagnostics.retracing import Note
from tapeworks_workers.engine.factory.build_context import BuildContext
from tapeworks_workers.engine.factory.factory import build
from tapeworks_workers.engine.graph.autograph import outside_trace
from tapeworks_workers.engine.models.outputs import (
    find,
    labels_of,
    listed,
    metric_labels,
    output_names_of,
    outputs_of,
    unique_names,
    weights_of,
)
from tapeworks_workers.engine.step.checks import metric_signatures


@dataclass(frozen=True)
class RoleMetric:
    """One metric of a role, and what it looks at."""

    name: str
    metric: keras.metrics.Metric
    output: str | None
    weighted: bool
    output_names: Sequence[str] | None = None
    """A functional model's names of its outputs."""
    component: str | None = None
    notes: list[Note] = field(default_factory=list)
    """What was found while tracing and is no failure."""


def build_metrics(
    spec: JobSpec, models: Mapping[str, keras.Model], structure: Callable[[str], Any], context: BuildContext
) -> dict[str, list[RoleMetric]]:
    """The metrics of every role, named as `fit` names them. `structure` gives a role's outputs, None where unknown.

    Raises JobFailure `invalid_spec` where two roles' metrics have one name.
    """
    built: dict[str, list[RoleMetric]] = {}
    taken: dict[str, str] = {}
    for role, of_role in spec.metrics.items():
        several = isinstance(of_role, OutputMetrics)
        by_output: Mapping[Any, Sequence[MetricSpec]] = (
            of_role.outputs if isinstance(of_role, OutputMetrics) else {None: of_role}
        )
        base = f"/metrics/{role}" + ("/outputs" if several else "")
        places = _places(models[role], structure(role), list(by_output)) if several else {None: (0, None)}
        made = []
        for output, metrics in by_output.items():
            for index, reference in enumerate(metrics):
                pointer = f"{base}/{output}/{index}" if several else f"{base}/{index}"
                metric = build(reference, Kind.METRIC, pointer=pointer, context=context)
                _check_signature(metric, reference, pointer)
                made.append((pointer, output, reference, metric))
        made.sort(key=lambda one: (one[2].weighted, places[one[1]][0]))  # as fit counts names
        named = [(own_name(metric, ref), places[output][1], ref.weighted) for _, output, ref, metric in made]
        for (pointer, output, reference, metric), own in zip(made, unique_names(named), strict=True):
            name = f"{role}_{own}" if len(models) > 1 else own
            if name in taken:
                raise JobFailure(
                    FailureCode.INVALID_SPEC,
                    f"the metrics at {taken[name]} and {pointer} are both called {name!r}",
                    hint=_rename(metric),
                )
            taken[name] = pointer
            built.setdefault(role, []).append(
                RoleMetric(name, metric, output, reference.weighted, output_names_of(models[role]), reference.component)
            )
    return built


def _places(model: keras.Model, structure: Any, keys: Sequence[str]) -> dict[Any, tuple[int, str | None]]:
    """Key → which output it is, and what `fit` puts before its metrics. Raises JobFailure for an unknown output."""
    if structure is None:
        return {key: (index, None if key.isdigit() else key) for index, key in enumerate(keys)}
    outputs = outputs_of(structure, output_names_of(model))
    names = metric_labels(outputs)
    found = {key: find(key, outputs, what="metrics") for key in keys}
    return {key: (index, names[index]) for key, index in found.items()}


def _rename(metric: keras.metrics.Metric) -> str:
    """How to give one of two metrics another name."""
    parameters = inspect.signature(type(metric)).parameters
    if "name" in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return 'Give one of them a name: {"config": {"name": "…"}}.'
    return (
        f"{type(metric).__name__}.__init__ takes no name: add one, `def __init__(self, …, name=None, **kwargs)` with "
        '`super().__init__(name=name, **kwargs)`, and give one of them {"config": {"name": "…"}}.'
    )


def _check_signature(metric: keras.metrics.Metric, reference: MetricSpec, pointer: str) -> None:
    """Raise JobFailure `invalid_spec` where `update_state` does not take what every metric of a role is given."""
    wrong = metric_signatures.without_sample_weight(metric) or metric_signatures.for_steps_only(metric)
    if wrong is not None:
        raise JobFailure(
            FailureCode.INVALID_SPEC,
            f"{pointer}: the metric {reference.component}: {wrong}",
            hint=f"Write {metric_signatures.WANTED} in the component, or take this metric out of `metrics`.",
            location=metric_signatures.place(metric, reference.component),
        )


def gradient_metrics(
    named: Mapping[str, keras.metrics.Metric], metrics: Mapping[str, list[RoleMetric]]
) -> list[RoleMetric]:
    """Metrics that nobody updates from outputs. Raises JobFailure `invalid_spec` where a role's has the name too."""
    taken = {metric.name for of_role in metrics.values() for metric in of_role}
    for name in sorted(taken & set(named)):
        raise JobFailure(FailureCode.INVALID_SPEC, f"a metric and a gradient transform both report {name!r}")
    return [RoleMetric(name, metric, None, False) for name, metric in named.items()]


def own_name(metric: keras.metrics.Metric, reference: MetricSpec) -> str:
    """`config.name`, or Keras' own name for the metric less the number that tells two instances apart."""
    if isinstance(given := reference.config.get("name"), str):
        return given
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(metric).__name__).lower()
    name = str(metric.name)
    stem, _, number = name.rpartition("_")
    return stem if number.isdigit() and stem and stem.replace("_", "") == snake.replace("_", "") else name


def update(metrics: Iterable[RoleMetric], y: Any, y_pred: Any, sample_weight: Any) -> None:
    """Feed each metric what it looks at; under tracing this adds to the step's graph."""
    for item in metrics:
        if declared(item.metric, "takes_all_outputs"):
            _update(item, y, y_pred, sample_weight if item.weighted else None)
            continue
        outputs = outputs_of(y_pred, item.output_names)
        if item.output is None and len(outputs) > 1:
            raise JobFailure(
                FailureCode.INVALID_SPEC,
                f"metric {item.name!r} is for one output, and the model has several: {listed(outputs)}",
                hint='Write {"outputs": {NAME: [metric, …]}} with the output that it is for.',
            )
        index = 0 if item.output is None else find(item.output, outputs, what="metrics")
        true = labels_of(y, y_pred, outputs, {index})[index]
        weight = weights_of(sample_weight, outputs)[index] if item.weighted else None
        _update(item, true, outputs[index].value, weight)


def _update(item: RoleMetric, y: Any, y_pred: Any, sample_weight: Any) -> None:
    with of_part(f"metric {item.name!r} {shapes(y, y_pred)}", item.component or ""):
        ensure_built(item.metric, y, y_pred)
        with Added() as added:
            item.metric.update_state(y, y_pred, sample_weight=sample_weight)
    if declared(item.metric, "pairwise"):
        return
    for crossing in crossings(added.operations, added.roots(y=y, outputs=y_pred, weights=sample_weight)):
        note = note_of(crossing, f"metric {item.name!r}", item.component or item.name)
        if crossing.certain:
            raise JobFailure(FailureCode.BROADCAST_LOSS, note.message, hint=note.hint, location=note.location)
        if not item.notes:
            item.notes.append(note)


def is_built(metric: keras.metrics.Metric) -> bool:
    """Whether it has all its variables: some are made at the first update, all (F1Score) or the rest (R2Score)."""
    return bool(metric.variables) and getattr(metric, "_built", True)


def ensure_built(metric: keras.metrics.Metric, y: Any, y_pred: Any) -> None:
    """What a metric would make at its first update is made outside the trace, on zeros."""
    if is_built(metric) or not (tf.is_tensor(y) and tf.is_tensor(y_pred)) or tf.executing_eagerly():
        return
    with outside_trace():
        metric.update_state(*(tf.zeros([size or 1 for size in t.shape], t.dtype) for t in (y, y_pred)))
        metric.reset_state()


def scalars(name: str, value: Any) -> dict[str, Any]:
    """A metric's result as named scalars: a vector becomes `name_0`, `name_1`, …; a dict `name_key`."""
    if isinstance(value, Mapping):
        return {key: item for part, inner in value.items() for key, item in scalars(f"{name}_{part}", inner).items()}
    value = tf.convert_to_tensor(value)
    if value.shape.num_elements() == 1 or value.shape.rank == 0:
        return {name: tf.reshape(value, [])}
    return {f"{name}_{index}": item for index, item in enumerate(tf.unstack(tf.reshape(value, [-1])))}


def as_floats(values: Mapping[str, Any]) -> dict[str, float]:
    """Scalars as Python floats."""
    return {name: float(np.asarray(value)) for name, value in values.items()}
