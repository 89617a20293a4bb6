"""Components: how code gets a name that a job spec can say.

Interface: `@component(name, version="1", kind=None, example=None)` registers a class or function in
`registry`, and with Keras where it is one of Keras' kinds; `tapeworks.components.loading` imports the files and
packages that do so. A `Component` knows its kind, name, version, source digest and the JSON
Schema of its config.

The kind of a class is that of its base (`KERAS_BASES`, `OUR_BASES`); functions and plain classes
are a `transform` unless `kind` says otherwise. Nothing here imports TensorFlow or Keras: a class
that subclasses Keras' has imported it already.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import JsonValue

from tapeworks.components import serialization
from tapeworks.components.config_schema import KERAS_BASES, OUR_BASES, Config, config_of, reference_kind
from tapeworks.components.examples import read_example
from tapeworks.components.step_roles import declared_roles
from tapeworks.components.uncalled_methods import check_uncalled
from tapeworks.errors import ComponentError, DuplicateComponent
from tapeworks.schemas.jobs import ComponentEntry, RefusedComponent
from tapeworks.spec.references import Kind

KERAS_KINDS = frozenset(KERAS_BASES.values())
FUNCTION_KINDS = frozenset({Kind.TRANSFORM, Kind.DATASET_FUNCTION, Kind.MODEL, Kind.LOSS, Kind.METRIC})
PLAIN_CLASS_KINDS = frozenset({Kind.TRANSFORM, Kind.DATASET_FUNCTION})

Direction = Literal["min", "max"]
"""Which of a metric's values is the best."""

Target = TypeVar("Target", bound=Callable[..., Any])


@dataclass(frozen=True)
class Component:
    """A registered class or function."""

    kind: Kind
    name: str
    version: str
    target: Any
    example: Mapping[str, Any] | None
    """Its parts, as `tapeworks.components.examples` reads them."""
    module: str
    file: Path | None
    digest: str
    """sha-256 of the source file."""
    package: str | None = None
    """The uploaded package that brought it."""
    direction: Direction | Mapping[str, Direction] | None = None
    """Of a metric: which value is the best; by key where its result is a dict."""

    def as_version(self, version: str, *, package: str | None = None) -> Component:
        """The same in another version: an uploaded package gives its components its own."""
        named = replace(self, version=version, package=package)
        named.__dict__["config"] = self.config  # Keras' registered class has another signature than its author wrote
        return named

    @property
    def shipped(self) -> bool:
        """Whether it is Tapeworks' own: as unchanging as the rest of it."""
        return self.package is None and self.package_name == "tapeworks_workers"

    @property
    def package_name(self) -> str:
        """What its name should begin with."""
        return self.module.partition(".")[0]

    @cached_property
    def config(self) -> Config:
        """The typed arguments. Raises ComponentError naming an argument that no config can hold."""
        return config_of(self.target, self.kind, self.name)

    @property
    def config_schema(self) -> dict[str, JsonValue]:
        """JSON Schema of the config."""
        return self.config.schema

    @property
    def doc(self) -> str:
        """The author's docstring."""
        own = self.target.__doc__
        return inspect.cleandoc(own) if own else ""

    @property
    def _undirected(self) -> str | None:
        """A class may still declare its direction in `__init__`, as Keras' do."""
        of_function = self.kind is Kind.METRIC and inspect.isfunction(self.target) and self.direction is None
        return self.target.__name__ if of_function else None

    def entry(self, warnings: Sequence[str] = ()) -> ComponentEntry:
        """The component as the catalogue shows it."""
        batching = (Kind.SOURCE, Kind.DATASET_FUNCTION)
        batched = getattr(self.target, "batched", None) if self.kind in batching else None
        return ComponentEntry(
            kind=self.kind,
            name=self.name,
            version=self.version,
            digest=self.digest,
            config_schema=self.config_schema,
            doc=self.doc,
            roles=declared_roles(self.target) if self.kind is Kind.STEP else None,
            batched=batched if isinstance(batched, bool) else None,
            undirected=self._undirected,
            warnings=list(warnings),
        )


class Registry:
    """The components of a process, one version of each (kind, name)."""

    def __init__(self) -> None:
        self._components: dict[tuple[Kind, str], Component] = {}
        self.refused: list[RefusedComponent] = []
        """Modules that could not be imported, for the catalogue."""

    def add(self, component: Component) -> None:
        """Register. The same code again replaces itself; other code raises DuplicateComponent."""
        for other in self._components.values():
            if other.name != component.name or _same_code(other, component):
                continue
            if other.kind is component.kind:
                which = f"{component.kind} {component.name!r}"
                if other.version != component.version:
                    raise DuplicateComponent(
                        f"{which} is registered in version {other.version!r} ({_where(other)}): "
                        f"a process holds one version of a name; load {component.version!r} in another worker"
                    )
                raise DuplicateComponent(
                    f"{which} is already registered by {_where(other)}; {_where(component)} must have a different name"
                )
            if {other.kind, component.kind} <= KERAS_KINDS:
                raise DuplicateComponent(
                    f"{component.name!r} names a {other.kind} ({_where(other)}) and a {component.kind}: "
                    "Keras writes both into files under one name, so they need two"
                )
        self._components[component.kind, component.name] = component

    def replace(self, component: Component) -> Component:
        """Put another entry in the place of the same component."""
        self._components[component.kind, component.name] = component
        return component

    def find(self, kind: Kind, name: str) -> Component | None:
        """The component, or None."""
        return self._components.get((kind, name))

    def get(self, kind: Kind, name: str) -> Component:
        """The component. Raises ComponentError with close names."""
        found = self.find(kind, name)
        if found is not None:
            return found
        names = [known for of_kind, known in self._components if of_kind is kind]
        close = difflib.get_close_matches(name, names, n=3)
        raise ComponentError(
            f"no {kind} is named {name!r}" + (f"; did you mean {', '.join(map(repr, close))}?" if close else "")
        )

    def __iter__(self) -> Iterator[Component]:
        return iter(list(self._components.values()))

    def __len__(self) -> int:
        return len(self._components)

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """A module that fails half-way leaves nothing behind."""
        before = dict(self._components)
        try:
            yield
        except BaseException:
            self._components = before
            raise


registry = Registry()
"""The process's components."""


def _same_code(one: Component, other: Component) -> bool:
    return (one.kind, one.version, one.digest, one.target.__qualname__) == (
        other.kind,
        other.version,
        other.digest,
        other.target.__qualname__,
    )


def _where(component: Component) -> str:
    return f"{component.module}.{component.target.__qualname__}"


# ── registration ─────────────────────────────────────────────────────────────────────────────────


def component(
    name: str,
    *,
    version: str = "1",
    kind: Kind | str | None = None,
    example: Mapping[str, Any] | None = None,
    direction: Direction | Mapping[str, Direction] | None = None,
) -> Callable[[Target], Target]:
    """Register a class or function under a name that specs can say: `focal`, `acme/Mish`.

    `example`: `{"config": {…}, "inputs": …}` (losses and metrics: `y_true`, `y_pred`), which admission builds and
    traces: shapes, specs or values (`tapeworks.components.examples`). `direction`, of a metric: "max" or "min", the
    value that is the best, for `mode: "auto"`; a dict where the result is one. Raises ComponentError,
    DuplicateComponent.
    """

    def register(target: Target) -> Target:
        _check_name(name)
        found = kind_of(target, name, Kind(kind) if kind is not None else None)
        _check_direction(direction, found, name)
        file = _source_file(target)
        entry = Component(
            kind=found,
            name=name,
            version=version,
            target=target,
            example=read_example(example, name),
            module=target.__module__,
            file=file,
            digest=_digest(target, file),
            direction=direction,
        )
        _ = entry.config  # an argument that no config can hold is reported here, at its author's line
        registry.add(entry)
        if found in KERAS_KINDS and not (found is Kind.MODEL and not inspect.isclass(target)):
            serialization.register(name, target)
        return target

    return register


def _check_name(name: str) -> None:
    import re

    from tapeworks.spec.references import COMPONENT_NAME

    if not re.fullmatch(COMPONENT_NAME, name) or name.startswith("keras/"):
        raise ComponentError(
            f"{name!r} cannot name a component: use 'package/Name' with letters, digits, '_', '.', '-' "
            "(the package 'keras' is Keras' own)"
        )


def _check_direction(direction: Any, kind: Kind, name: str) -> None:
    if direction is None:
        return
    if kind is not Kind.METRIC:
        where = "in its attribute `directions`" if kind in (Kind.EVALUATOR, Kind.STEP) else "nowhere"
        raise ComponentError(f"{name}: `direction` is for metrics; a {kind} declares directions {where}")
    given = list(direction.values()) if isinstance(direction, Mapping) else [direction]
    if not given or any(one not in ("min", "max") for one in given):
        raise ComponentError(f'{name}: direction must be "min" or "max", or a dict of these, got {direction!r}')


def kind_of(target: Any, name: str, given: Kind | None = None) -> Kind:
    """The kind of a class or function. Raises ComponentError where its base and `given` do not agree."""
    if not inspect.isclass(target):
        if not inspect.isfunction(target):
            raise ComponentError(f"{name}: @component takes a class or a function, not {type(target).__name__}")
        found = given or Kind.TRANSFORM
        if found not in FUNCTION_KINDS:
            raise ComponentError(f"{name}: a function cannot be a {found}: {_advice(found)}")
        return found
    found = reference_kind(target) or given or Kind.TRANSFORM
    check_uncalled(target, found, name)
    if given is not None and given is not found:
        raise ComponentError(f"{name}: {target.__name__} is a {found} by its base, not a {given}: {_advice(given)}")
    if reference_kind(target) is None and found not in PLAIN_CLASS_KINDS:
        raise ComponentError(f"{name}: a {found} needs its base: {_advice(found)}")
    return found


def _advice(kind: Kind) -> str:
    for base, of_kind in OUR_BASES.items():
        if of_kind is kind:
            return f"subclass tapeworks.{base.__name__}"
    for path, of_kind in KERAS_BASES.items():
        if of_kind is kind:
            return f"subclass keras.{path}"
    return "a function or a plain class can be one"


def _source_file(target: Any) -> Path | None:
    module = sys.modules.get(target.__module__)
    file = getattr(module, "__file__", None)
    return Path(file) if file and Path(file).is_file() else None


def _digest(target: Any, file: Path | None) -> str:
    if file is not None:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    try:
        source = inspect.getsource(target)
    except (OSError, TypeError):
        raise ComponentError(
            f"the source of {target.__qualname__} cannot be read: put it into a file, which goes into bundles"
        ) from None
    return hashlib.sha256(source.encode()).hexdigest()
