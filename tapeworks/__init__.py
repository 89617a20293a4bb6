"""Training as a service for TensorFlow and Keras 3.

`Client` speaks to a service, `load` opens a downloaded model bundle, `component` and the classes
beside it are for code of your own. Importing this package imports neither TensorFlow nor, until a
name is used, the module behind it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tapeworks import errors
    from tapeworks.bundle import load
    from tapeworks.client.client import Client
    from tapeworks.components.interfaces import (
        Branch,
        Callback,
        EarlierJob,
        Evaluator,
        Files,
        GradientTransform,
        Run,
        Source,
        SourceOfSources,
        TrainingStep,
    )
    from tapeworks.components.registry import component
    from tapeworks.keras.from_keras import from_keras
    from tapeworks.spec.job_spec import JobSpec

__version__ = "0.1.0"

_HOMES = {
    "Branch": "tapeworks.components.interfaces",
    "Callback": "tapeworks.components.interfaces",
    "Client": "tapeworks.client.client",
    "EarlierJob": "tapeworks.components.interfaces",
    "Evaluator": "tapeworks.components.interfaces",
    "Files": "tapeworks.components.interfaces",
    "GradientTransform": "tapeworks.components.interfaces",
    "JobSpec": "tapeworks.spec.job_spec",
    "Run": "tapeworks.components.interfaces",
    "Source": "tapeworks.components.interfaces",
    "SourceOfSources": "tapeworks.components.interfaces",
    "TrainingStep": "tapeworks.components.interfaces",
    "component": "tapeworks.components.registry",
    "from_keras": "tapeworks.keras.from_keras",
    "load": "tapeworks.bundle",
}

__all__ = [
    "Branch",
    "Callback",
    "Client",
    "EarlierJob",
    "Evaluator",
    "Files",
    "GradientTransform",
    "JobSpec",
    "Run",
    "Source",
    "SourceOfSources",
    "TrainingStep",
    "component",
    "errors",
    "from_keras",
    "load",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("tapeworks.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'tapeworks' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
