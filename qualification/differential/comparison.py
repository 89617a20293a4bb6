"""One set-up on both sides, and what came of it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import keras
import numpy as np

from qualification.differential.fitting import Training, compiled_model, fitted
from qualification.differential.setups import Setup
from qualification.differential.training import spec_of, trained
from tapeworks.errors import FailureCode, JobFailure, TapeworksError
from tapeworks_workers.engine.runtime import as_traced
from tapeworks_workers.engine.step.assembly import PRECISIONS

TOLERANCE = 1e-5
_SHOWN = 6
_MORE_THAN_FIT = frozenset({"loss_scale"})
"""What the engine reports and `fit` does not."""


class Verdict(StrEnum):
    """What a set-up showed."""

    EQUAL = "equal"
    DIFFERENT = "different"
    REFUSED = "refused"
    """The engine or `from_keras` refused with a coded error."""
    RIGHTLY_REFUSED = "rightly refused"
    """No spec can hold what the set-up does, and a coded error said so."""
    BROKEN = "broken"
    """It failed with an error of no code."""
    UNFIT = "unfit"
    """`fit` itself fails, or gives something else each time: nothing to compare with."""


@dataclass(frozen=True)
class Outcome:
    """A verdict, and why."""

    verdict: Verdict
    details: list[str]


def outcome(setup: Setup) -> Outcome:
    """Train the set-up on both sides and compare.

    Graphs run as they were traced: an optimised one rounds elsewhere, which bfloat16 shows in the third digit.
    """
    try:
        with as_traced():
            return _outcome(setup)
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")


def _outcome(setup: Setup) -> Outcome:
    try:
        _fresh(setup)
        theirs = fitted(setup, compiled_model(setup))
    except Exception as error:
        return Outcome(Verdict.UNFIT, [_line(error)])
    if not np.all(np.isfinite(theirs.losses)):
        return Outcome(Verdict.UNFIT, ["the loss of fit is not finite"])
    try:
        _fresh(setup)
        ours = trained(setup, spec_of(setup, compiled_model(setup)))
    except TapeworksError as error:
        # XLA compiles no loop over a length that only the data know; the plan "auto" does not take `fused` then.
        uncompiled = setup.plan == "fused" and isinstance(error, JobFailure) and error.code is FailureCode.NOT_SUPPORTED
        right = setup.optimizer.change or uncompiled
        return Outcome(Verdict.RIGHTLY_REFUSED if right else Verdict.REFUSED, [_line(error)])
    except Exception as error:
        return Outcome(Verdict.BROKEN, [*traceback.format_exc().splitlines()[-12:], _line(error)])
    found = list(differences(ours, theirs))
    if found and not _repeats(setup, theirs):
        return Outcome(Verdict.UNFIT, ["fit does not repeat itself: Keras loses a seed when it copies a layer"])
    return Outcome(Verdict.DIFFERENT if found else Verdict.EQUAL, found)


def _repeats(setup: Setup, first: Training) -> bool:
    """Whether `fit` gives the same once more."""
    _fresh(setup)
    return _close(fitted(setup, compiled_model(setup)).losses, first.losses)


def differences(ours: Training, theirs: Training) -> Iterator[str]:
    """Everything in which the two trainings differ, the first cause first."""
    shapes = [[value.shape for value in side.start] for side in (ours, theirs)]
    if shapes[0] != shapes[1]:
        yield f"variables: {ours.names} {shapes[0]} against {theirs.names} {shapes[1]} of fit"
        return
    yield from _apart("initial", ours.names, ours.start, theirs.start)
    if len(ours.losses) != len(theirs.losses):
        yield f"batches: {len(ours.losses)} against {len(theirs.losses)} of fit"
    elif not _close(ours.losses, theirs.losses):
        yield f"loss after each batch: {_shown(ours.losses)} against {_shown(theirs.losses)} of fit"
    for name in sorted((set(ours.history) | set(theirs.history)) - _MORE_THAN_FIT):
        if name not in ours.history or name not in theirs.history:
            yield f"{name}: reported by {'fit' if name in theirs.history else 'the engine'} only"
        elif not _close(ours.history[name], theirs.history[name]):
            yield f"{name}: {_shown(ours.history[name])} against {_shown(theirs.history[name])} of fit"
    yield from _apart("final", ours.names, ours.end, theirs.end)


def _apart(when: str, names: list[str], ours: list[np.ndarray], theirs: list[np.ndarray]) -> Iterator[str]:
    for name, mine, other in zip(names, ours, theirs, strict=True):
        if not _close(mine, other):
            apart = np.max(np.abs(mine.astype("float64") - other.astype("float64")))
            yield f"{when} {name}: at most {apart:.2g} apart"


def _close(mine: object, other: object) -> bool:
    ours, theirs = (np.asarray(side, dtype="float64") for side in (mine, other))
    return ours.shape == theirs.shape and np.allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)


def _shown(values: list[float]) -> str:
    return "[" + ", ".join(f"{value:.6g}" for value in values[:_SHOWN]) + (", …]" if values[_SHOWN:] else "]")


def _line(error: Exception) -> str:
    first = " ".join(str(error).split())
    return f"{type(error).__name__}: {first[:400]}"


def _fresh(setup: Setup) -> None:
    """Keras as a new process has it, in the set-up's precision."""
    keras.utils.clear_session()
    floatx, policy = PRECISIONS[setup.precision]
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)
