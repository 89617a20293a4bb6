"""A training step traced a second time, to find what Python gave to the first trace only.

A constant of the graph that is another one in the second trace came from Python (a random number, a clock, a counter),
and every step has that of the first. A counter or list that grew with both traces grows with no step.

The second trace is made where the job's own code has something in reach that changes by itself (`python_state`), and in
a validation of any code that a user wrote; never of Tapeworks' and Keras' own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tapeworks_workers.engine.diagnostics import python_randomness
from tapeworks_workers.engine.diagnostics import source_locations as places
from tapeworks_workers.engine.diagnostics.retracing import Note, Traces
from tapeworks_workers.engine.step.assembly import Assembly
from tapeworks_workers.engine.step.checks.python_state import Key, UserCode, grown
from tapeworks_workers.engine.step.compiled_step import CompiledStep

STATE = "python_state"
_STATE_HINT = (
    "Return the value from the step, feed a metric, or keep it in a tf.Variable made in build() and changed by assign: "
    "a Python attribute is changed while the step is traced, and by no step."
)
_ENOUGH = 10
"""Notes of one kind."""
LONG_TRACE_SECONDS = 10.0
"""A trace that takes longer is repeated in a job only where its first one showed a change; a validation repeats it."""


class TraceComparison:
    """Begin before the step is traced, `notes` after."""

    def __init__(self, assembly: Assembly, traces: Traces) -> None:
        self._traces = traces
        traces.drew = False  # the pipeline's functions are not what is compared
        self._code = UserCode.of(assembly)
        self._before = self._code.state()
        self._generators = python_randomness.states()
        self._began = time.monotonic()

    def notes(self, step: CompiledStep, *, always: bool) -> list[Note]:
        """What only the first trace has. `always`: whether or not anything suggests that two traces differ."""
        if not self._code.objects or step.concrete is None:
            return []
        took = time.monotonic() - self._began
        first = self._code.state()
        changed = any(first.get(key, value) != value for key, value in self._before.items())
        may_differ = self._code.may_differ()
        drawn = may_differ and python_randomness.drawn_since(self._generators) and not self._traces.drew
        if not (always or changed or drawn or (may_differ and took < LONG_TRACE_SECONDS)):
            return []
        again = _traced_again(step, self._traces)
        if again is None:
            return [_drawn()] if drawn else []
        second = self._code.state()
        # Where a call of Python's random numbers was seen, its line says more than that of the constant.
        notes = [] if self._traces.drew else list(_changed_constants(step.concrete.graph, again.graph))
        if drawn and not notes:
            notes.append(_drawn())
        notes += [self._note(key, how) for key, how in grown(self._before, first, second)][:_ENOUGH]
        return notes

    def _note(self, key: Key, how: str) -> Note:
        owner, name = key
        what = f"{owner}: {name}" if owner in self._code.objects else f"{name} of module {owner}"
        message = f"{what} is changed only while the step is traced: it {how}"
        return Note(STATE, message, _STATE_HINT, self._code.place(key))


def _drawn() -> Note:
    """A number that decided what is traced, and is no constant itself."""
    message = "random numbers of Python or NumPy are drawn while the step is traced: they are constants of every step"
    return Note(python_randomness.CODE, message, python_randomness.RANDOM_HINT)


def _traced_again(step: CompiledStep, traces: Traces) -> Any:
    """The ConcreteFunction of a second trace; None where it fails, as what leaks from a first trace does."""
    states = python_randomness.states()
    try:
        with traces.paused():
            function = tf.function(step.body, input_signature=[step.element_spec], autograph=False)
            return function.get_concrete_function()
    except Exception:
        return None
    finally:
        python_randomness.set_states(states)


def _changed_constants(first: Any, second: Any) -> Iterator[Note]:
    seen: set[Any] = set()
    others = dict(_constants(second))
    for key, one in _constants(first):
        other = others.get(key)
        if other is None or len(seen) == _ENOUGH or _value(one) == _value(other):
            continue
        place = places.of_tensor(one.outputs[0])
        if place is None or place in seen or places.of_tensor(other.outputs[0]) != place:
            continue
        seen.add(place)
        file = (place.file or "").rpartition("/")[2]
        shown = " and ".join(_shown(operation) for operation in (one, other))
        message = (
            f"Python gives another value each time {file}, line {place.line}, is traced ({shown}): the first is a "
            "constant of every step"
        )
        yield Note(python_randomness.CODE, message, python_randomness.RANDOM_HINT, place)


def _constants(graph: Any, path: tuple[int, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every constant, inside branches and loops too, by a key that is the same in another trace."""
    for operation in graph.get_operations():
        if operation.type == "Const":
            yield (*path, operation.name), operation
    for index, function in enumerate(getattr(graph, "_functions", {}).values()):
        inner = getattr(function, "graph", None)
        if inner is not None:
            yield from _constants(inner, (*path, index))


def _value(operation: Any) -> bytes:
    return bytes(operation.get_attr("value").SerializeToString(deterministic=True))


def _shown(operation: Any) -> str:
    value = tf.make_ndarray(operation.get_attr("value"))
    return f"{value}" if value.size == 1 else f"{value.ravel()[0]}, …"
