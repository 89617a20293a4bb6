"""Which components enter the catalogue: those that were built, written, rebuilt, traced and differentiated.

Interface: `admit_all(part)`, run in a process of its own (a child of the component zygote), gives the worker's
catalogue, or the part of it that we ship or that was added. Each registered component is built from its example, or
from its defaults, and goes through the trial of its kind (`trials.py`). What fails is refused with its reason; what
could not be tried is a warning of its entry. Keras' own classes are listed by name.

The rebuilt object lives in the process that wrote it; that it also loads where Tapeworks is not installed is
proved for each job's bundle (`reload.py`).
"""

from __future__ import annotations

import inspect
import traceback
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from tapeworks.components.registry import Component, registry
from tapeworks.components.uncalled_methods import uncalled_of_libraries
from tapeworks.errors import JobFailure, Location
from tapeworks.schemas.jobs import ComponentEntry, RefusedComponent
from tapeworks.schemas.worker_protocol import Catalogue
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.admission.admission_checks import TRIALS
from tapeworks_workers.engine.admission.rebuilding import AdmissionError, check_arguments
from tapeworks_workers.engine.data.example_tensors import NotTried
from tapeworks_workers.engine.diagnostics import python_randomness
from tapeworks_workers.engine.diagnostics.error_text import text
from tapeworks_workers.engine.factory.factory import build
from tapeworks_workers.engine.factory.keras_classes import keras_entries

__all__ = ["admit", "admit_all", "keras_entries"]


def admit_all(
    part: str = "all",
    *,
    skipped: Mapping[str, Mapping[str, str]] | None = None,
    begin: Callable[[str], None] = lambda _: None,
) -> Catalogue:
    """The catalogue of this process's registry, in order of kind and name.

    `part`: `shipped` for Keras' classes and our components, `own` for other components and for every module that could
    not be imported, or `all`. `begin` is given the kind and name of each component before it is tried; those `skipped`
    are refused untried, with `reason`, `code` and `hint`.
    """
    components = keras_entries() if part != "own" else []
    refused = list(registry.refused) if part != "shipped" else []
    wanted = {"all": (True, False), "shipped": (True,), "own": (False,)}[part]
    for component in (one for one in registry if one.shipped in wanted):
        key = f"{component.kind} {component.name}"
        if skipped and key in skipped:
            refused.append(_untried(component, skipped[key]))
            continue
        begin(key)
        verdict = admit(component)
        if isinstance(verdict, ComponentEntry):
            components.append(verdict)
        else:
            refused.append(verdict)
    components.sort(key=lambda entry: (entry.kind, entry.name))
    return Catalogue(components=components, refused=refused)


def _untried(component: Component, reason: Mapping[str, str]) -> RefusedComponent:
    named = {"kind": component.kind, "name": component.name, "version": component.version}
    return RefusedComponent.model_validate({**named, **reason})


def admit_packaged() -> dict[str, Any]:
    """The result of an admission: components of uploaded packages, and everything that keeps one of them out."""
    packaged = [one for one in registry if one.package is not None]
    verdicts = [_named_apart(one) or admit(one) for one in packaged]
    refused = [*registry.refused, *(one for one in verdicts if isinstance(one, RefusedComponent))]
    if not packaged and not refused:
        reason = "its modules register no component: put @component on classes and functions"
        refused.append(RefusedComponent(name="the package", reason=reason))
    entries = [one for one in verdicts if isinstance(one, ComponentEntry)]
    return {
        "components": [one.model_dump(mode="json") for one in entries],
        "refused": [one.model_dump(mode="json") for one in refused],
    }


def _named_apart(component: Component) -> RefusedComponent | None:
    """Plain names are the built-ins'."""
    if "/" in component.name:
        return None
    reason = f"its name has no package: rename it to {component.package_name}/{component.name}"
    return RefusedComponent(kind=component.kind, name=component.name, version=component.version, reason=reason)


def admit(component: Component) -> ComponentEntry | RefusedComponent:
    """Try one component. Errors of its code become the reason of its refusal."""
    keras.utils.clear_session(free_memory=False)
    notes = uncalled_of_libraries(component.target, component.kind) if inspect.isclass(component.target) else []
    drawn: list[str] = []

    def called(what: str, hint: str, location: Location) -> None:
        drawn.append(f"{what} at {(location.file or '').rpartition('/')[2]}, line {location.line}")
        if tf.inside_function():
            notes.append(f"{drawn[-1]} runs while the code is traced, and gives one value for all steps. {hint}")

    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with python_randomness.watching(called, eager=True):
                _try(component, notes)
        notes += [str(one.message) for one in caught if not issubclass(one.category, DeprecationWarning)]
        return component.entry(list(dict.fromkeys(notes)))
    except Exception as error:  # any error of a component's own code is the reason why it is refused
        reason = _reason(error, component)
        if drawn and isinstance(error, AdmissionError):
            reason += f"; it calls {drawn[0]}: use keras.random with a SeedGenerator of its own"
        return RefusedComponent(kind=component.kind, name=component.name, version=component.version, reason=reason)


def _try(component: Component, notes: list[str]) -> None:
    example = dict(component.example or {})
    config = example.get("config", {})
    required = component.config_schema.get("required") or []
    missing = [name for name in required if name not in config] if isinstance(required, list) else []
    if missing:
        notes.append(f"not tried: {missing[0]!r} has no default and the component has no example that gives it")
        return
    if component.config.files & set(config):
        notes.append("not tried: it reads files")
        return

    def built() -> Any:
        reference = {"component": component.name, "version": component.version, "config": config}
        return build(reference, Kind(component.kind))

    trial = TRIALS.get(component.kind)
    instance = built()
    check_arguments(component, config, notes)
    if trial is None:
        return
    try:
        trial(instance, example, notes)
    except NotTried as untried:
        notes.append(f"not tried: {untried}")


def _reason(error: Exception, component: Component) -> str:
    if isinstance(error, (JobFailure, AdmissionError)):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if component.file is not None and frame.filename == str(component.file)]
    place = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {text(error)}{place}"
