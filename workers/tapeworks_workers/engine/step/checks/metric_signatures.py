"""Whether `update_state` of a metric takes what a job passes to every metric of a role.

Keras calls `update_state(y_true, y_pred, sample_weight=…)` also where there are no weights, and so do jobs.
"""

from __future__ import annotations

import inspect
from typing import Any

from tapeworks.errors import Location

WANTED = "def update_state(self, y_true, y_pred, sample_weight=None)"


def without_sample_weight(metric: Any) -> str | None:
    """What is wrong with its `update_state`, and what to write; None where it takes what Keras passes."""
    if _takes(metric, 0, 1, sample_weight=None) or not _takes(metric, 0, 1):
        return None
    if "sample_weight" in inspect.signature(metric.update_state).parameters:  # (values, sample_weight) of Mean
        return _steps_only(metric)
    return (
        f"{type(metric).__name__}.update_state{_signature(metric)} takes no sample_weight, which Keras passes to every "
        f"metric, None where there are no weights: write {WANTED}"
    )


def for_steps_only(metric: Any) -> str | None:
    """Why it cannot stand in a spec's `metrics`, where it does not take labels and outputs at all."""
    return None if _takes(metric, 0, 1) else _steps_only(metric)


def _steps_only(metric: Any) -> str:
    return (
        f"{type(metric).__name__}.update_state{_signature(metric)} does not take (y_true, y_pred, sample_weight=None): "
        "a step may use this metric, but it cannot stand in `metrics`"
    )


def place(metric: Any, component: str | None = None) -> Location | None:
    """Where its `update_state` is written; `component`: its name in the spec."""
    function = inspect.unwrap(type(metric).update_state)
    try:
        return Location(inspect.getsourcefile(function), inspect.getsourcelines(function)[1], component)
    except (OSError, TypeError):
        return None


def _takes(metric: Any, *arguments: Any, **named: Any) -> bool:
    try:
        inspect.signature(metric.update_state).bind(*arguments, **named)
    except TypeError:
        return False
    except ValueError:
        return True  # no signature can be read: Keras finds out
    return True


def _signature(metric: Any) -> str:
    return str(inspect.signature(type(metric).update_state))
