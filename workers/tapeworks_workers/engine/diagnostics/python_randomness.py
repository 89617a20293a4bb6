"""Calls of Python's and NumPy's random numbers, clocks and unique ids while user code is traced.

Such a call gives one value, which becomes a constant of the graph: every step then has the same. `watching(note)` wraps
the functions of the modules for the time of a trace, so that a call is noted with its line. What is called by another
name (`from random import random`, a generator of the user's own) is found by comparing two traces (`second_trace`).
"""

from __future__ import annotations

import contextlib
import functools
import random
import secrets
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import tensorflow as tf

from tapeworks.errors import Location
from tapeworks_workers.engine.diagnostics import source_locations as places

CODE = "traced_constant"
RANDOM_HINT = (
    "Use run.random_uniform, run.random_normal or keras.random, which draw anew with every step and are checkpointed; "
    "a function of the pipeline takes an argument `seed` for tf.random.stateless_*."
)
CLOCK_HINT = "Use tf.timestamp() for the time of each step, and run.step for its number."

_SEEDED = frozenset({"default_rng", "RandomState", "Generator", "SeedSequence", "Random"})
"""With a seed they give the same each time, on purpose."""
_MODULES: tuple[tuple[ModuleType, str, tuple[str, ...]], ...] = (
    (np.random, "np.random", ()),
    (random, "random", ()),
    (secrets, "secrets", ("randbelow", "randbits", "choice", "token_bytes", "token_hex")),
    (uuid, "uuid", ("uuid1", "uuid4")),
    (time, "time", ("time", "time_ns", "perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "process_time")),
)
"""(module, its usual name, functions; () for all that draw)."""
_NO_DRAWS = frozenset(
    {"seed", "get_state", "set_state", "getstate", "setstate", "get_bit_generator", "set_bit_generator"}
)

Note = Callable[[str, str, Location], None]
"""Takes what was called, a hint, and the line."""


@contextlib.contextmanager
def watching(note: Note, *, eager: bool = False) -> Iterator[None]:
    """Note every such call that a user's own line makes inside a graph; `eager`: outside of one too, in this thread."""
    wrapped: list[tuple[ModuleType, str, Any]] = []
    # Empty once the block has ended: who has taken a wrapped function meanwhile keeps one that only passes on.
    active = [threading.get_ident() if eager else None]
    for module, spoken, names in _MODULES:
        hint = CLOCK_HINT if module is time else RANDOM_HINT
        for name in names or _draws(module):
            function = getattr(module, name)
            wrapped.append((module, name, function))
            setattr(module, name, _watched(function, f"{spoken}.{name}", hint, note, active))
    try:
        yield
    finally:
        active.clear()
        for module, name, function in wrapped:
            setattr(module, name, function)


@functools.cache
def _draws(module: ModuleType) -> tuple[str, ...]:
    """The functions that draw from a module's own generator, and `default_rng`."""
    owners = (random.Random, np.random.RandomState)
    found = [name for name, value in vars(module).items() if isinstance(getattr(value, "__self__", None), owners)]
    return tuple(name for name in [*found, *({"default_rng"} & vars(module).keys())] if name not in _NO_DRAWS)


def _watched(function: Any, spoken: str, hint: str, note: Note, active: list[int | None]) -> Any:
    name = spoken.rpartition(".")[2]

    @functools.wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        # Other threads of the process have clocks of their own; whether a graph is being made is known for each thread.
        watches = bool(active) and (active[0] == threading.get_ident() or tf.inside_function())
        if watches and not (name in _SEEDED and (args or kwargs)) and _called_by_user():
            location = places.here()
            if location is not None:
                note(f"{spoken}()", hint, location)
        return function(*args, **kwargs)

    return tf.autograph.experimental.do_not_convert(watched)


def _called_by_user() -> bool:
    """Whether a user's own line is what called: Keras and TensorFlow draw seeds too, and know why."""
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if "__autograph_generated_file" in file:
            return True
        if "/autograph/" not in file and file != __file__ and not file.startswith("<"):
            return places.is_users(file)
        frame = frame.f_back  # type: ignore[assignment]
    return False


def states() -> tuple[Any, ...]:
    """The state of Python's and NumPy's global generators, for `set_states`."""
    return random.getstate(), np.random.get_state()


def set_states(saved: tuple[Any, ...]) -> None:
    """Put them back."""
    random.setstate(saved[0])
    np.random.set_state(saved[1])


def drawn_since(saved: tuple[Any, ...]) -> bool:
    """Whether anybody drew from them since `states`."""
    _, keys, position, *rest = np.random.get_state()
    _, old_keys, old_position, *old_rest = saved[1]
    same = position == old_position and rest == old_rest and np.array_equal(keys, old_keys)
    return not same or random.getstate() != saved[0]
