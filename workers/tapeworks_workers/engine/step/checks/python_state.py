"""What user code keeps in Python while it is traced: attributes of its objects, variables of its modules.

Python runs once, at the trace: a counter that a step adds to, a list that it appends to, stay as the trace left them.
`UserCode` finds the objects and modules of a job's own components, and says whether anything in them suggests that two
traces would differ, so that most jobs need no second one.
"""

from __future__ import annotations

import ast
import collections
import datetime
import inspect
import itertools
import random
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

import tapeworks
import tapeworks_workers
from tapeworks.errors import Location
from tapeworks_workers.engine.diagnostics import source_locations as places

if TYPE_CHECKING:
    from tapeworks_workers.engine.step.assembly import Assembly

_OURS = tuple(str(Path(str(package.__file__)).parent) for package in (tapeworks, tapeworks_workers))
_CHANGING_MODULES = frozenset({"random", "time", "datetime", "uuid", "secrets", "numpy.random", "_random", "_uuid"})
_GENERATORS = (np.random.Generator, np.random.RandomState, random.Random)
_ITERATORS: tuple[type, ...] = (itertools.count, itertools.cycle, type(iter([])), type(iter(())), type(_ for _ in ()))
_CONTAINERS = (list, dict, set, collections.deque)
_NUMBERS = (int, float, np.number)
Key = tuple[str, str]
"""Where a value is: its owner as users know it, and its name."""


@dataclass(frozen=True)
class UserCode:
    """The parts of a job that its user wrote, as far as a training step runs them."""

    objects: dict[str, Any]
    """Name for a message → instance of a user's class."""
    modules: dict[str, ModuleType]

    @classmethod
    def of(cls, assembly: Assembly) -> UserCode:
        """Returns the user's code of an assembled job."""
        parts = [(name, one, _module(one)) for name, one in _parts(assembly)]
        own = {module: _is_own(module) for module in {module for *_, module in parts}}
        objects = {name: one for name, one, module in parts if own[module]}
        modules: dict[str, ModuleType] = {}
        for one in objects.values():
            _add_modules(_module(one), modules)
        return cls(objects, modules)

    def may_differ(self) -> bool:
        """Whether anything that changes by itself is within reach: a clock, a generator, an iterator."""
        held = (value for one in self.objects.values() for value in _attributes(one).values())
        return any(isinstance(value, (*_GENERATORS, *_ITERATORS)) for value in held) or any(
            _uses_what_changes(code, module) for module in self.modules.values() for code in _codes(module)
        )

    def state(self) -> dict[Key, Any]:
        """What can be compared of every attribute and module variable."""
        found: dict[Key, Any] = {}
        for name, one in self.objects.items():
            found |= {(name, f"self.{key}"): _comparable(value) for key, value in _attributes(one).items()}
        for module in self.modules.values():
            found |= {(module.__name__, key): _comparable(value) for key, value in vars(module).items()}
        return {key: value for key, value in found.items() if value is not None}

    def place(self, key: Key) -> Location | None:
        """The line that changes a value, outside `__init__` and `build`."""
        owner, name = key
        if owner in self.objects:
            return _line_in_class(type(self.objects[owner]), name.removeprefix("self."))
        return _line_in_module(self.modules[owner], name)


def grown(before: Mapping[Key, Any], first: Mapping[Key, Any], second: Mapping[Key, Any]) -> Iterator[tuple[Key, str]]:
    """What changed with the first trace and again with the second, and how."""
    for key, value in before.items():
        a, b = first.get(key, value), second.get(key, value)
        if value == a or a == b or not type(value) is type(a) is type(b):
            continue
        if isinstance(value, _Size):
            yield key, f"had {value} entries before, {a} after it"
        elif isinstance(value, _NUMBERS):
            yield key, f"was {value} before, {a} after it"


class _Size(int):
    """The number of entries of a container."""


def _comparable(value: Any) -> Any:
    """None where a change says nothing."""
    if isinstance(value, _CONTAINERS):
        return _Size(len(value))
    return value if isinstance(value, _NUMBERS) and not isinstance(value, bool) else None


# ── whose code ───────────────────────────────────────────────────────────────────────────────────


def _parts(assembly: Assembly) -> Iterator[tuple[str, Any]]:
    yield f"the step {type(assembly.step).__name__}", assembly.step
    for role, model in assembly.models.items():
        for layer in model._flatten_layers():
            yield f"the layer {layer.name!r} of role {role!r}" if layer is not model else f"the model {role!r}", layer
    for name, loss in assembly.losses.items():
        yield from ((f"the loss {name!r}", getattr(part.loss, "fn", part.loss)) for part in loss.losses)
    for metric in assembly.all_metrics():
        yield f"the metric {metric.name!r}", getattr(metric.metric, "_fn", metric.metric)
    for name, several in assembly.transforms.items():
        yield from ((f"the gradient transform {type(one).__name__} of {name!r}", one) for one in several)
    for name, optimizer in assembly.optimizers.items():
        yield f"the optimizer {name!r}", optimizer


def _module(one: Any) -> ModuleType | None:
    name = getattr(one, "__module__", None) or type(one).__module__
    return sys.modules.get(name)


def _is_own(module: ModuleType | None) -> bool:
    """Whether a module is a user's: neither ours nor a library's."""
    file = getattr(module, "__file__", None)
    return file is not None and not file.startswith(_OURS) and places.is_users(file)


def _add_modules(module: ModuleType | None, found: dict[str, ModuleType]) -> None:
    """A user's module, and those of his own that it knows."""
    if module is None or not _is_own(module) or module.__name__ in found:  # a lazy module of a library may have no name
        return
    found[module.__name__] = module
    for value in list(vars(module).values()):
        if isinstance(value, ModuleType):
            _add_modules(value, found)
        elif isinstance(value, type | FunctionType):
            _add_modules(sys.modules.get(value.__module__), found)


@cache
def _of_keras() -> frozenset[str]:
    """The attributes that Keras keeps in its own objects."""
    bare = (keras.layers.Layer(name="bare"), keras.losses.Loss(name="bare"), keras.metrics.Metric(name="bare"))
    return frozenset(name for one in bare for name in vars(one))


def _attributes(one: Any) -> dict[str, Any]:
    held = vars(one) if hasattr(one, "__dict__") and not isinstance(one, FunctionType | type) else {}
    keras_own = _of_keras() if isinstance(one, keras.Layer | keras.losses.Loss | keras.metrics.Metric) else ()
    private = isinstance(one, keras.optimizers.Optimizer)
    return {
        name: value for name, value in held.items() if name not in keras_own and not (private and name.startswith("_"))
    }


# ── what changes by itself ───────────────────────────────────────────────────────────────────────


def _codes(module: ModuleType) -> Iterator[CodeType]:
    """The code of every function and method that a module defines."""
    for value in vars(module).values():
        if getattr(value, "__module__", None) != module.__name__:
            continue
        functions = vars(value).values() if isinstance(value, type) else [value]
        for function in functions:
            function = getattr(function, "__func__", getattr(function, "fget", function))
            code = getattr(inspect.unwrap(function) if callable(function) else function, "__code__", None)
            if code is not None:
                yield from _with_inner(code)


def _with_inner(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_inner(constant)


def _uses_what_changes(code: CodeType, module: ModuleType) -> bool:
    names = {*code.co_names, *code.co_freevars}
    if names & {"next", "default_rng", "urandom", "getpid"}:
        return True
    for name in names:
        value = vars(module).get(name)
        if isinstance(value, ModuleType):
            if value.__name__ in _CHANGING_MODULES or (value is np and "random" in names):
                return True
        elif isinstance(value, (*_GENERATORS, *_ITERATORS)) or value is datetime.datetime or value is datetime.date:
            return True
        elif callable(value):
            of = getattr(value, "__self__", None)
            if isinstance(of, _GENERATORS) or getattr(value, "__module__", None) in _CHANGING_MODULES:
                return True
    return False


# ── lines ────────────────────────────────────────────────────────────────────────────────────────


def _line_in_class(cls: type, name: str) -> Location | None:
    for base in cls.__mro__:
        if not _is_own(sys.modules.get(base.__module__)):
            continue
        try:
            lines, start = inspect.getsourcelines(base)
            tree = ast.parse(textwrap.dedent("".join(lines)))
        except (OSError, TypeError, SyntaxError):
            continue
        methods = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        for method in methods:
            if method.name not in ("__init__", "build") and (line := _changing(method, name)) is not None:
                return _location(inspect.getsourcefile(base), start + line - 1)
    return None


def _line_in_module(module: ModuleType, name: str) -> Location | None:
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError, SyntaxError):
        return None
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        if (line := _changing(function, name)) is not None:
            return _location(module.__file__, line)
    return None


def _changing(function: ast.FunctionDef, name: str) -> int | None:
    """The first line that assigns to a name, an attribute or an entry of it, or calls a method of it."""

    def is_it(node: ast.AST) -> bool:
        if isinstance(node, ast.Subscript):
            return is_it(node.value)
        return (isinstance(node, ast.Attribute) and node.attr == name) or (
            isinstance(node, ast.Name) and node.id == name
        )

    for node in ast.walk(function):
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            targets = [node.func.value]
        if any(map(is_it, targets)):
            return int(node.lineno)  # type: ignore[attr-defined]
    return None


def _location(file: str | None, line: int) -> Location | None:
    return None if file is None else Location(file=file, line=line, component=places.component_at(file, line))
