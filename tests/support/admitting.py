"""Admission of one component that a test defines."""

from typing import Any

from tapeworks.components.registry import component, registry
from tapeworks.schemas.jobs import ComponentEntry, RefusedComponent
from tapeworks_workers.engine.admission.admission import admit


def verdict(target: Any, **registration: Any) -> ComponentEntry | RefusedComponent:
    """Register under a name of the test's file, and admit."""
    package = target.__module__.rpartition(".")[2].removeprefix("test_admission").strip("_") or "trial"
    component(f"{package}/{target.__name__}", **registration)(target)
    (found,) = [one for one in registry if one.target is target]
    return admit(found)


def reason(target: Any, **registration: Any) -> str:
    """Why it is refused."""
    refused = verdict(target, **registration)
    assert isinstance(refused, RefusedComponent), refused
    return refused.reason


def warned(target: Any, **registration: Any) -> list[str]:
    """The warnings of its entry."""
    entry = verdict(target, **registration)
    assert isinstance(entry, ComponentEntry), entry
    return entry.warnings
