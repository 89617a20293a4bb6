"""What the import of a module changed in its process beyond the module itself.

Runners are forked from a process that has imported every component. A module that replaces a method of Keras, ends up
in a second process or closes descriptors there changes jobs that do not use it. `ImportGuard` records the process
before an import and describes such a change after it.

What is compared: every function and class of every loaded module, the attributes of these classes, the code and
defaults of these functions, global settings of Keras, TensorFlow and NumPy, names that Keras has registered, signal
handlers and timers, descriptors, threads and processes. The contents of other objects are not compared.
"""

from __future__ import annotations

import builtins
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FunctionType, ModuleType
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
DESCRIPTORS_CLOSED = 86
"""Exit status of a zygote whose channel to the agent is gone after an import."""
NAMED = 3
"""Changes that a message names; the others are counted."""

_OVERRIDE = "Subclass or wrap what it changes, in the module's own classes."
_MISSING = object()
_METHODS = (FunctionType, staticmethod, classmethod, property)


class ImportGuard:
    """The process as it was before an import. `descriptors`: those that must stay what they are."""

    def __init__(self, descriptors: Sequence[int]) -> None:
        self._pid = os.getpid()
        self._descriptors = {number: identity(number) for number in (0, 1, 2, *descriptors)}
        self._threads = set(threading.enumerate())
        self._signals = _signals()
        self._settings = _settings()
        self._registered = _registered()
        self._modules: dict[str, tuple[ModuleType, dict[str, Any]]] = {}
        self._classes: dict[type, dict[str, Any]] = {}
        self._functions: dict[FunctionType, tuple[Any, ...]] = {}
        self.extend()

    def extend(self) -> None:
        """Record modules that were loaded since, so that the next import may not change them either."""
        for name, module in list(sys.modules.items()):
            if name not in self._modules and isinstance(module, ModuleType):
                self._record(name, module)

    def _record(self, name: str, module: ModuleType) -> None:
        found = {key: value for key, value in vars(module).items() if callable(value)}
        self._modules[name] = (module, found)
        for value in found.values():
            if isinstance(value, type) and value not in self._classes:
                self._classes[value] = dict(vars(value))
                self._record_functions(vars(value).values())
        self._record_functions(found.values())

    def _record_functions(self, values: Any) -> None:
        for value in values:
            if type(value) is FunctionType:
                self._functions[value] = (value.__code__, value.__defaults__, value.__kwdefaults__)

    # ── cheap: after each import ─────────────────────────────────────────────────────────────────

    def effect(self) -> tuple[str, str] | None:
        """The first change outside of Python's modules, with its remedy. Ends the process where it is a fork of the
        one that was recorded: it has returned into code that runs there already."""
        if os.getpid() != self._pid:
            os._exit(0)
        if changed := [number for number, was in self._descriptors.items() if identity(number) != was]:
            numbers = ", ".join(map(str, changed))
            return f"it closes or replaces descriptors of its process: {numbers}", "Close only what the module opened."
        if started := _living_children():
            _end(started)
            return f"it leaves processes running: {len(started)}", "Start processes where they are used."
        if threads := [one.name for one in threading.enumerate() if one not in self._threads]:
            return (
                f"it leaves threads running: {', '.join(threads[:NAMED])}",
                "Start threads where they are used: jobs run in forks of this process, in which they do not exist.",
            )
        if _signals() != self._signals:
            return "it changes signal handlers or timers of its process", "Leave signals to the worker."
        now = _settings()
        if changed_settings := [name for name, was in self._settings.items() if now.get(name) != was]:
            name = changed_settings[0]
            return (
                f"it changes a global setting: {name} from {self._settings[name]} to {now.get(name)}",
                "Set it in the job's spec, or pass a dtype or policy to the layers that need it.",
            )
        return self._hijacked()

    def _hijacked(self) -> tuple[str, str] | None:
        """A name of Keras' registry that stands for something else now."""
        now = _registered()
        changed = [name for name, was in self._registered.items() if now.get(name, _MISSING) is not was]
        changed += [name for name in now if name not in self._registered and _is_name_of_keras(name)]
        if not changed:
            return None
        return f"it registers other code with Keras as {changed[0]!r}", "Give the class a name and package of its own."

    # ── the modules ──────────────────────────────────────────────────────────────────────────────

    def patches(self) -> list[str]:
        """Functions, classes and attributes of recorded modules that are others now, by their full names."""
        found: list[str] = []
        for name, (module, before) in self._modules.items():
            now = vars(module)
            found += [f"{name}.{key}" for key, value in before.items() if now.get(key, _MISSING) is not value]
            if module is builtins:
                found += [f"{name}.{key}" for key in now if key not in before and callable(now[key])]
        for one, attributes in self._classes.items():
            found += [f"{one.__module__}.{one.__qualname__}.{key}" for key in _apart(attributes, vars(one))]
        for function, parts in self._functions.items():
            if (function.__code__, function.__defaults__, function.__kwdefaults__) != parts:
                found.append(f"{function.__module__}.{function.__qualname__}")
        return list(dict.fromkeys(found))


def described(patches: Sequence[str]) -> tuple[str, str]:
    """What a module patches, with the remedy."""
    more = f" and {len(patches) - NAMED} more" if len(patches) > NAMED else ""
    return f"it patches code outside of its own module: {', '.join(patches[:NAMED])}{more}", _OVERRIDE


@contextmanager
def adopting_orphans() -> Iterator[None]:
    """While modules are imported, a process that one of them starts cannot leave this one's tree."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _apart(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Methods and properties that were replaced, removed or added. Counters and caches of a class are its own."""
    if len(now) == len(before) and all(now.get(key, _MISSING) is value for key, value in before.items()):
        return []
    replaced = [key for key, was in before.items() if now.get(key, _MISSING) is not was and _is_code(was)]
    return replaced + [key for key, is_ in now.items() if key not in before and isinstance(is_, _METHODS)]


def _is_code(value: Any) -> bool:
    return callable(value) or hasattr(type(value), "__get__")


def identity(descriptor: int) -> tuple[int, int] | None:
    """What an open descriptor stands for; None where it is closed."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _living_children() -> list[int]:
    """Children that have not ended; none where the kernel does not list them."""
    found: list[int] = []
    for thread in os.listdir("/proc/self/task"):
        with suppress(OSError), open(f"/proc/self/task/{thread}/children") as listing:
            found += [pid for pid in map(int, listing.read().split()) if not _has_ended(pid)]
    return found


def _has_ended(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as status:
            return status.read().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _end(children: Sequence[int]) -> None:
    """Kill children, and those of theirs that become ours."""
    waiting = list(children)
    while waiting:
        for pid in waiting:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)  # a child that nobody has waited for: the number is its own
                os.waitpid(pid, 0)
        waiting = _living_children()


def _signals() -> tuple[Any, ...]:
    handlers = tuple(signal.getsignal(number) for number in signal.valid_signals())
    armed = tuple(signal.getitimer(which) != (0.0, 0.0) for which in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL))
    return handlers, armed


def _settings() -> dict[str, Any]:
    """Global settings that change what other components compute."""
    keras, np, tf = _loaded("keras"), _loaded("numpy"), _loaded("tensorflow")
    read: dict[str, Callable[[], Any]] = {
        "keras.config.floatx": keras.config.floatx,
        "keras.config.epsilon": keras.config.epsilon,
        "keras.config.image_data_format": keras.config.image_data_format,
        "keras.config.dtype_policy": lambda: keras.config.dtype_policy().name,
        "keras.config.is_flash_attention_enabled": keras.config.is_flash_attention_enabled,
        "tf.config.functions_run_eagerly": tf.config.functions_run_eagerly,
        "np.geterr": np.geterr,
    }
    return {name: function() for name, function in read.items()}


def _loaded(name: str) -> Any:
    """A module that the base zygote has imported; this file imports none of them by itself."""
    return sys.modules[name]


def _registered() -> dict[str, Any]:
    return dict(_loaded("keras").saving.get_custom_objects())


def _is_name_of_keras(name: str) -> bool:
    keras = _loaded("keras")
    modules = (keras.layers, keras.activations, keras.losses, keras.metrics, keras.optimizers, keras.initializers)
    return any(hasattr(module, name) for module in (*modules, keras.regularizers, keras.constraints, keras.models))
