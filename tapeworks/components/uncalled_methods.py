"""Methods that `fit` calls, or that look as if something called them, and that no job calls.

A class that defines one would train as if the method were not there. `check_uncalled(cls, kind, name)` raises
ComponentError with the remedy, when the class is registered and, for models that a function returns, when one is built.
The hooks that a job does call are listed in docs/keras-hooks.md.
"""

from __future__ import annotations

from typing import Any

from tapeworks.components.interfaces import Callback, TrainingStep
from tapeworks.errors import ComponentError
from tapeworks.spec.references import Kind

_TO_A_STEP = "Move it to a tapeworks.TrainingStep (train_step(batch, run)) and keep the model to call()."
_TO_HOOKS = (
    "Override compute_loss or compute_metrics, which a job calls, or move it to validation_step(batch, run) of a "
    "tapeworks.TrainingStep."
)
_TO_INIT = (
    "Pass these arguments to __init__, and name the optimizer, the loss and the metrics in the spec. Rename a method "
    "that is used only outside jobs."
)

_MODEL = {
    "train_step": _TO_A_STEP,
    "test_step": _TO_HOOKS,
    "make_train_function": _TO_A_STEP,
    "make_test_function": _TO_HOOKS,
    "fit": _TO_INIT,
    "evaluate": _TO_INIT,
    "compile": _TO_INIT,
}
_STEP = {
    "test_step": "Call it validation_step(batch, run).",
    "compile": "Declare `models`, `optimizers` and `losses`, and make state in build(run).",
    "fit": "The engine loops over batches: define only train_step(batch, run).",
}
_OF_KIND = {Kind.MODEL: _MODEL, Kind.STEP: _STEP}
_KERAS_CALLBACK = ("keras.src.callbacks.callback", "Callback")


_OF_LIBRARIES = frozenset({"fit", "evaluate", "compile"})
"""What a base from a library may override (KerasHub's tasks do): its author says so in no file of theirs."""


def check_uncalled(cls: type, kind: Kind, name: str, *, package: str | None = None) -> None:
    """Raises ComponentError where the class defines a method that its kind has no caller for.

    `package`: the author's top-level package where it is not that of the class: functions may return a library's model.
    """
    if any((base.__module__, base.__qualname__) == _KERAS_CALLBACK for base in cls.__mro__):
        raise ComponentError(
            f"{name}: {cls.__name__} is a Keras callback, which a compiled training loop cannot call between batches. "
            "Subclass tapeworks.Callback: on_epoch_end(epoch, logs, run) and on_report(step, logs, run)."
        )
    for method, remedy in _OF_KIND.get(kind, {}).items():
        if defined_by_author(cls, method) and not (_called_by_itself(cls, method) or _of_library(cls, method, package)):
            does = "overrides" if kind is Kind.MODEL else "defines"
            raise ComponentError(f"{name}: {cls.__name__} {does} {method}, which is not called here. {remedy}")
    if kind is Kind.CALLBACK:
        for method in (found for found in dir(cls) if found.startswith("on_") and not hasattr(Callback, found)):
            raise ComponentError(
                f"{name}: {cls.__name__} defines {method}, which is not called here. A tapeworks.Callback has "
                "on_epoch_end(epoch, logs, run) and on_report(step, logs, run)."
            )


def defined_by_author(cls: Any, method: str) -> bool:
    """Whether a class has the method from its author, and not from Keras or Tapeworks."""
    for base in cls.__mro__:
        if method in vars(base):
            return base.__module__.partition(".")[0] not in ("keras", "tapeworks", "tapeworks_workers")
    return False


def uncalled_of_libraries(cls: type, kind: Kind) -> list[str]:
    """Warnings for methods of a library's base that no job calls; [] for other kinds than models."""
    found = [method for method in sorted(_OF_LIBRARIES) if kind is Kind.MODEL and _of_library(cls, method)]
    return [f"{method} of {_definer(cls, method).__module__} is not called: {_TO_INIT}" for method in found]


def _of_library(cls: type, method: str, package: str | None = None) -> bool:
    """Whether a class has one of the methods from a package that is neither its author's nor Keras'."""
    if method not in _OF_LIBRARIES or not defined_by_author(cls, method):
        return False
    return _definer(cls, method).__module__.partition(".")[0] != (package or cls.__module__.partition(".")[0])


def _definer(cls: type, method: str) -> type:
    return next(base for base in cls.__mro__ if method in vars(base))


def _called_by_itself(cls: type, method: str) -> bool:
    """A step's `test_step` beside a `validation_step` may be what that one calls."""
    return issubclass(cls, TrainingStep) and method == "test_step" and cls.can_validate()
