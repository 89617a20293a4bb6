"""Components: how code gets a name that a job spec can say.

Interface: `@component(name, version="1", kind=None, example=None)` registers a class or function in
`registry`, and with Keras where it is one of Keras' kinds; `load_components(paths)` imports a
user's files, `load_installed()` the packages that announce the entry point group
`tapeworks.components`. A `Component` knows its kind, name, version, source digest and the JSON
Schema of its config.

The kind of a class is that of its base (`KERAS_BASES`, `OUR_BASES`); functions and plain classes
are a `transform` unless `kind` says otherwise. Nothing here imports TensorFlow or Keras: a class
that subclasses Keras' has imported it already.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import inspect
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from pydantic import JsonValue

from tapeworks import serialization
from tapeworks.config_schema import KERAS_BASES, OUR_BASES, Config, config_of, reference_kind
from tapeworks.errors import ComponentError, DuplicateComponent
from tapeworks.jobs import ComponentEntry, RefusedComponent
from tapeworks.references import Kind
from tapeworks.roles import declared_roles

ENTRY_POINTS = "tapeworks.components"
BUILT_IN = "tapeworks_workers.components"

KERAS_KINDS = frozenset(KERAS_BASES.values())
FUNCTION_KINDS = frozenset({Kind.TRANSFORM, Kind.DATASET_FUNCTION, Kind.MODEL, Kind.LOSS, Kind.METRIC})
PLAIN_CLASS_KINDS = frozenset({Kind.TRANSFORM, Kind.DATASET_FUNCTION})

Target = TypeVar("Target", bound=Callable[..., Any])


@dataclass(frozen=True)
class Component:
    """A registered class or function."""

    kind: Kind
    name: str
    version: str
    target: Any
    example: Mapping[str, Any] | None
    module: str
    file: Path | None
    digest: str
    """sha-256 of the source file."""
    package: str | None = None
    """The uploaded package that brought it."""

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
                        f"a process holds one version of a name, so {component.version!r} needs another worker"
                    )
                raise DuplicateComponent(
                    f"{which} is registered already by {_where(other)}; {_where(component)} needs a name of its own"
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
            f"there is no {kind} named {name!r}" + (f"; did you mean {', '.join(map(repr, close))}?" if close else "")
        )

    def __iter__(self) -> Iterator[Component]:
        return iter(list(self._components.values()))

    def __len__(self) -> int:
        return len(self._components)

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
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
    name: str, *, version: str = "1", kind: Kind | str | None = None, example: Mapping[str, Any] | None = None
) -> Callable[[Target], Target]:
    """Register a class or function under a name that specs can say: `focal`, `acme/Mish`.

    `example`: `{"config": {…}, "inputs": nest of specs}` (losses and metrics: `y_true`, `y_pred`), which admission
    builds and traces. Raises ComponentError, DuplicateComponent.
    """

    def register(target: Target) -> Target:
        _check_name(name)
        found = kind_of(target, name, Kind(kind) if kind is not None else None)
        file = _source_file(target)
        entry = Component(
            kind=found,
            name=name,
            version=version,
            target=target,
            example=example,
            module=target.__module__,
            file=file,
            digest=_digest(target, file),
        )
        _ = entry.config  # an argument that no config can hold is told here, at its author's line
        registry.add(entry)
        if found in KERAS_KINDS and not (found is Kind.MODEL and not inspect.isclass(target)):
            serialization.register(name, target)
        return target

    return register


def _check_name(name: str) -> None:
    import re

    from tapeworks.references import COMPONENT_NAME

    if not re.fullmatch(COMPONENT_NAME, name) or name.startswith("keras/"):
        raise ComponentError(
            f"{name!r} cannot name a component: use 'package/Name' with letters, digits, '_', '.', '-' "
            "(the package 'keras' is Keras' own)"
        )


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
    if given is not None and given is not found:
        raise ComponentError(f"{name}: {target.__name__} is a {found} by its base, not a {given}: {_advice(given)}")
    if reference_kind(target) is None and found not in PLAIN_CLASS_KINDS:
        raise ComponentError(f"{name}: a {found} needs its base: {_advice(found)}")
    if found is Kind.MODEL and _overrides_train_step(target):
        raise ComponentError(
            f"{name}: {target.__name__} overrides train_step, which is not called here. "
            "Move it to a tapeworks.TrainingStep (train_step(batch, run)) and keep the model to call()."
        )
    return found


def _advice(kind: Kind) -> str:
    for base, of_kind in OUR_BASES.items():
        if of_kind is kind:
            return f"subclass tapeworks.{base.__name__}"
    for path, of_kind in KERAS_BASES.items():
        if of_kind is kind:
            return f"subclass keras.{path}"
    return "a function or a plain class can be one"


def _overrides_train_step(target: type) -> bool:
    for base in target.__mro__:
        if "train_step" in vars(base):
            return base.__module__.partition(".")[0] != "keras"
    return False


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


# ── loading ──────────────────────────────────────────────────────────────────────────────────────


def load_components(paths: Sequence[Path], *, keep_going: bool = False) -> list[Component]:
    """Import a user's files and folders: a module, a package, or a plain folder of both.

    Each is imported under its own top-level name, its folder appended to `sys.path`. A module that cannot be
    imported raises ComponentError; with `keep_going` it goes to `registry.refused` and the others are loaded.
    """
    loaded: list[Component] = []
    for path in paths:
        for file in _modules_in(path.resolve()):
            loaded += _load(file.stem if file.is_file() else file.name, _parent=file.parent, keep_going=keep_going)
    return loaded


def load_installed(*, keep_going: bool = False) -> list[Component]:
    """Import the built-in components and what installed packages announce in the entry point group, with sub-modules.

    The built-ins announce themselves in the same way; they are named here too for a checkout that was installed
    before they did.
    """
    loaded: list[Component] = []
    modules = {point.module for point in entry_points(group=ENTRY_POINTS)}
    if importlib.util.find_spec(BUILT_IN.partition(".")[0]) is not None:
        modules.add(BUILT_IN)
    for module in sorted(modules):
        loaded += _load(module, keep_going=keep_going)
    return loaded


def load_package(root: Path, modules: Sequence[str], *, id: str, version: str) -> list[Component]:
    """Import the modules of an uploaded package from its folder; what cannot be goes to `registry.refused`.

    Its components have the package's version, whatever they say: one version of a name is one content then.
    """
    before = {(one.kind, one.name): one for one in registry}
    for module in modules:
        top = module.partition(".")[0]
        try:
            with registry._all_or_nothing():
                _import(top, root.resolve())
                importlib.import_module(module)
        except (Exception, SystemExit) as error:
            registry.refused.append(RefusedComponent(name=module, reason=_place_of(error, root)))
    loaded = [one for one in registry if before.get((one.kind, one.name)) is not one]
    return [registry.replace(replace(one, package=id, version=version)) for one in loaded]


def _place_of(error: BaseException, root: Path) -> str:
    """What was raised, and the last line of the package that it passed."""
    told = f"{type(error).__name__}: {error}"
    own = [at for at in traceback.extract_tb(error.__traceback__) if at.filename.startswith(f"{root}/")]
    return f"{told} ({own[-1].filename.removeprefix(f'{root}/')}, line {own[-1].lineno})" if own else told


def _modules_in(path: Path) -> list[Path]:
    """The modules and packages that a path names, in order of name."""
    if not path.exists():
        raise ComponentError(f"{path} does not exist")
    if path.is_file() or (path / "__init__.py").is_file():
        if path.is_file() and path.suffix != ".py":
            raise ComponentError(f"{path} is not a Python file")
        return [path]
    found = [file for file in path.glob("*.py") if not file.name.startswith((".", "_"))]
    found += [folder for folder in path.iterdir() if (folder / "__init__.py").is_file()]
    if not found:
        raise ComponentError(f"{path} holds no Python module")
    return sorted(found)


def _load(name: str, *, keep_going: bool, _parent: Path | None = None) -> list[Component]:
    try:
        with registry._all_or_nothing():
            module = _import(name, _parent)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        if keep_going:
            registry.refused.append(RefusedComponent(name=name, reason=reason))
            return []
        if isinstance(error, ComponentError):
            raise
        raise ComponentError(f"{name} cannot be imported: {reason}") from error
    prefix = module.__name__
    return [one for one in registry if one.module == prefix or one.module.startswith(prefix + ".")]


def _import(name: str, parent: Path | None) -> ModuleType:
    if parent is not None and str(parent) not in sys.path:
        sys.path.append(str(parent))
        importlib.invalidate_caches()
    module = importlib.import_module(name)
    if parent is not None and not _lies_in(module, parent):
        raise ComponentError(
            f"the module name {name!r} is taken by {getattr(module, '__file__', 'Python itself')}: rename the file"
        )
    if hasattr(module, "__path__"):
        for item in pkgutil.walk_packages(module.__path__, module.__name__ + ".", onerror=_raise):
            importlib.import_module(item.name)
    return module


def _lies_in(module: ModuleType, parent: Path) -> bool:
    file = getattr(module, "__file__", None)
    if file is None:
        return False
    at = Path(file).resolve()
    return (at.parent.parent if at.name == "__init__.py" else at.parent) == parent


def _raise(name: str) -> None:
    raise  # called by walk_packages inside its except block
