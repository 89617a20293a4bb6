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
    from tapeworks.authoring import (
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
    from tapeworks.bundle import load
    from tapeworks.client import Client
    from tapeworks.components import component
    from tapeworks.keras import from_keras
    from tapeworks.spec import JobSpec

__version__ = "0.1.0"

_HOMES = {
    "Branch": "tapeworks.authoring",
    "Callback": "tapeworks.authoring",
    "Client": "tapeworks.client",
    "EarlierJob": "tapeworks.authoring",
    "Evaluator": "tapeworks.authoring",
    "Files": "tapeworks.authoring",
    "GradientTransform": "tapeworks.authoring",
    "JobSpec": "tapeworks.spec",
    "Run": "tapeworks.authoring",
    "Source": "tapeworks.authoring",
    "SourceOfSources": "tapeworks.authoring",
    "TrainingStep": "tapeworks.authoring",
    "component": "tapeworks.components",
    "from_keras": "tapeworks.keras",
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
