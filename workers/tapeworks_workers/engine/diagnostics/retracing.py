"""What is seen while user code is traced: how often each function was, why again, and Python prints.

`Traces` counts the engine's own steps (`step` is called inside each trace) and, while `watching`, every `tf.function`
of a user's that is called: a second trace is an event that names the argument and what changed of it, and one
trace more than `training.max_traces` fails the job. Nothing is watched while compiled steps run.
"""

from __future__ import annotations

import builtins
import contextlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import tensorflow as tf

from tapeworks.errors import FAILURES, FailureCode, JobFailure, Location
from tapeworks_workers.engine.diagnostics import python_randomness
from tapeworks_workers.engine.diagnostics import source_locations as places
from tapeworks_workers.engine.graph.autograph import engine_code
from tapeworks_workers.engine.graph.element_spec import described, fields
from tapeworks_workers.engine.graph.tensorflow_private import TracedFunction
from tapeworks_workers.engine.reporting import Reporter


class Note(NamedTuple):
    """Something that is no failure and that the user should know."""

    code: str
    message: str
    hint: str = ""
    location: Location | None = None


@dataclass
class _Traced:
    """A function, the arguments of its last trace, and how often it was traced."""

    function: Any
    """Kept, so that its id stays its own."""
    name: str
    count: int = 0
    arguments: dict[str, str] = field(default_factory=dict)


class Traces:
    """The traces of one attempt. `limit`: how often one function may be traced."""

    def __init__(self, reporter: Reporter, *, limit: int) -> None:
        self._reporter = reporter
        self._limit = limit
        self._steps: dict[str, _Traced] = {}
        self._functions: dict[int, _Traced] = {}
        self._created: list[str] = []
        """Variables that the step made since its trace began."""
        self._noted: set[tuple[Any, ...]] = set()
        self._paused = False
        self.drew = False
        """Whether a step's code asked Python for a random number or the time."""

    @property
    def counts(self) -> dict[str, int]:
        """`training`, `validation` and a user's own functions that were traced more than once → how often."""
        own = {traced.name: traced.count for traced in self._functions.values() if traced.count > 1}
        return own | {name: traced.count for name, traced in self._steps.items()}

    # ── the engine's steps ───────────────────────────────────────────────────────────────────────

    def step(self, name: str, element_spec: Any) -> None:
        """Called while a step is traced for batches of `element_spec`. Raises JobFailure `retracing`."""
        if self._paused:
            return
        arguments = {path: described(spec) for path, spec in fields(element_spec)}
        traced = self._steps.setdefault(name, _Traced(None, name))
        reason = "first trace" if traced.count == 0 else self._why_again(traced, arguments)
        self._created = []
        self._count(traced, arguments, reason, None)

    def _why_again(self, traced: _Traced, arguments: Mapping[str, str]) -> str:
        if (changed := _changed(traced.arguments, arguments)) is not None:
            return changed
        made = ", ".join(self._created) or "something"
        return f"the trace before created {made}: make variables in __init__ or build()"

    def variable_made(self, next_creator: Any, **kwargs: Any) -> Any:
        """A variable creator for the inside of a trace: TensorFlow traces again what creates variables."""
        place = places.here()
        name = kwargs.get("name") or "a variable"
        self._created.append(name if place is None else f"{name} ({_place(place)})")
        return next_creator(**kwargs)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Traces inside the block are no part of the job: they are neither counted nor reported."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    # ── a user's own functions, and prints ───────────────────────────────────────────────────────

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch calls of `tf.function`s, of `print` and of Python's random numbers and clocks inside the block."""
        call, write = TracedFunction.__call__, builtins.print

        def watched_call(function: Any, *args: Any, **kwargs: Any) -> Any:
            before = function.experimental_get_tracing_count()
            result = call(function, *args, **kwargs)
            if function.experimental_get_tracing_count() > before and not self._paused:
                self._function(function, args, kwargs)
            return result

        @engine_code
        def watched_print(*args: Any, **kwargs: Any) -> None:
            if tf.inside_function():
                if self._paused:
                    return
                self._print()
            write(*args, **kwargs)

        TracedFunction.__call__, builtins.print = watched_call, watched_print
        try:
            with python_randomness.watching(self._constant):
                yield
        finally:
            TracedFunction.__call__, builtins.print = call, write

    def _function(self, function: Any, args: Any, kwargs: Any) -> None:
        python_function = inspect.unwrap(function.python_function)
        code = getattr(python_function, "__code__", None)
        if code is None or not places.is_users(code.co_filename):
            return
        arguments = _arguments(python_function, args, kwargs)
        traced = self._functions.setdefault(id(function), _Traced(function, python_function.__qualname__))
        if traced.count == 0:
            traced.count, traced.arguments = 1, arguments
            return
        reason = _changed(traced.arguments, arguments) or "the same arguments, called in another graph"
        location = places.here()
        if traced.count == 1:
            hint = "Pass changing numbers as tensors, and give it an input_signature with None for what varies."
            self.note(Note(FailureCode.RETRACING, f"{traced.name} is traced again: {reason}", hint, location))
        self._count(traced, arguments, reason, location)

    def _print(self) -> None:
        location = places.here()
        if location is not None:
            message = f"Python's print at {_place(location)} runs only while the code is traced"
            hint = "Use tf.print there: it runs with every step and its output is in the job's log."
            self.note(Note("python_print", message, hint, location))

    def _constant(self, what: str, hint: str, location: Location) -> None:
        self.drew = True
        message = (
            f"{what} at {_place(location)} runs only while the code is traced: its value is a constant of every step"
        )
        self.note(Note(python_randomness.CODE, message, hint, location))

    # ── telling ──────────────────────────────────────────────────────────────────────────────────

    def note(self, note: Note) -> None:
        """A diagnostic, reported once."""
        if note not in self._noted:
            self._noted.add(note)
            self._reporter.diagnostic(note.code, note.message, hint=note.hint, location=note.location)

    def _count(self, traced: _Traced, arguments: dict[str, str], reason: str, location: Location | None) -> None:
        traced.count += 1
        traced.arguments = arguments
        self._reporter.event("trace", {"function": traced.name, "count": traced.count, "reason": reason})
        if traced.count > self._limit:
            raise JobFailure(
                FailureCode.RETRACING,
                f"{traced.name} was traced {traced.count} times, training.max_traces is {self._limit}; "
                f"the last time because {reason}",
                hint=FAILURES[FailureCode.RETRACING].hint,
                location=location,
            )


def _arguments(function: Any, args: Any, kwargs: Any) -> dict[str, str]:
    """The leaves of a call's arguments, by the parameter's name and path."""
    try:
        given = dict(inspect.signature(function).bind(*args, **kwargs).arguments)
    except TypeError:
        given = {**{str(index): value for index, value in enumerate(args)}, **kwargs}
    return {
        path: described(leaf) for name, value in given.items() if name != "self" for path, leaf in fields(value, name)
    }


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """Each argument that is not as it was, with what it was and is; None where all are."""
    changes = [
        f"{name} was {before.get(name, 'not given')} and is {now.get(name, 'not given')}"
        for name in dict.fromkeys([*before, *now])
        if before.get(name) != now.get(name)
    ]
    return "; ".join(changes) or None


def _place(location: Location) -> str:
    return f"{(location.file or '').rpartition('/')[2]}, line {location.line}"
