"""Monitored values whose direction nothing declares, as far as the catalogue knows; the worker knows the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tapeworks.errors import Finding, ProblemCode
from tapeworks.schemas.jobs import ComponentEntry
from tapeworks.spec.job_spec import JobSpec, OutputMetrics
from tapeworks.spec.references import Kind

REDUCE_LEARNING_RATE = "reduce_learning_rate"


def monitor_findings(spec: JobSpec, entry_of: Callable[[Kind, str], ComponentEntry | None]) -> Iterator[Finding]:
    """A finding for each monitor with mode "auto" of a metric that declares no direction."""
    undirected = dict(_undirected(spec, entry_of))
    for pointer, monitor in _automatic(spec):
        if (component := undirected.get(monitor.removeprefix("val_"))) is not None:
            yield Finding(
                f"{pointer}/monitor",
                ProblemCode.INVALID_VALUE,
                f'monitor is {monitor!r} with mode "auto", and the metric {component!r} does not declare whether its '
                "highest or its lowest value is the best",
                'Add "mode": "max" beside "monitor" if the highest value is the best, "mode": "min" if the lowest is.',
            )


def _automatic(spec: JobSpec) -> Iterator[tuple[str, str]]:
    """Pointer and monitored name of every place with mode "auto"."""
    training = spec.training
    best = training.checkpoint.best if training.checkpoint is not None else None
    for place, monitored in (("early_stopping", training.early_stopping), ("checkpoint/best", best)):
        if monitored is not None and monitored.mode == "auto":
            yield f"/training/{place}", monitored.monitor
    for index, callback in enumerate(spec.callbacks):
        if callback.component == REDUCE_LEARNING_RATE and callback.config.get("mode", "auto") == "auto":
            yield f"/callbacks/{index}/config", str(callback.config.get("monitor", "val_loss"))


def _undirected(spec: JobSpec, entry_of: Callable[[Kind, str], ComponentEntry | None]) -> Iterator[tuple[str, str]]:
    """The names under which such a metric may be reported, with its component."""
    for role, of_role in spec.metrics.items():
        by_output = of_role.outputs if isinstance(of_role, OutputMetrics) else {"": of_role}
        for output, metrics in by_output.items():
            for metric in metrics:
                entry = entry_of(Kind.METRIC, metric.component)
                if entry is not None and entry.undirected is not None:
                    own = metric.config.get("name", entry.undirected)
                    for parts in ((own,), (output, own), (role, own), (role, output, own)):
                        yield "_".join(filter(None, map(str, parts))), metric.component
