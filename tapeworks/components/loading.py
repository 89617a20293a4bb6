"""Importing components: a user's files, installed packages, uploaded packages. What they register is in `registry`.

Interface: `load_components(paths)` imports files and folders, `load_installed()` the packages that announce the entry
point group `tapeworks.components`, `load_package(root, modules)` an uploaded one from its folder. `modules_in(path)`
and `installed_modules()` list what the first two import, without importing it.
"""

from __future__ import annotations

import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from tapeworks.components.registry import Component, registry
from tapeworks.errors import ComponentError
from tapeworks.schemas.jobs import RefusedComponent

ENTRY_POINTS = "tapeworks.components"
BUILT_IN = "tapeworks_workers.components"


def load_components(paths: Sequence[Path], *, keep_going: bool = False) -> list[Component]:
    """Import a user's files and folders: a module, a package, or a plain folder of both.

    Each is imported under its own top-level name, its folder appended to `sys.path`. A module that cannot be
    imported raises ComponentError; with `keep_going` it goes to `registry.refused` and the others are loaded.
    """
    loaded: list[Component] = []
    for path in paths:
        for file in modules_in(path.resolve()):
            loaded += _load(file.stem if file.is_file() else file.name, _parent=file.parent, keep_going=keep_going)
    return loaded


def load_installed(*, keep_going: bool = False) -> list[Component]:
    """Import the built-in components and those that installed packages announce, with sub-modules."""
    return [one for module in installed_modules() for one in load_module(module, keep_going=keep_going)]


def installed_modules() -> list[str]:
    """The modules of the built-in components and of installed packages, the built-in ones first.

    The built-ins announce themselves in the same way; they are named here too for a checkout that was installed
    before they did.
    """
    modules = {point.module for point in entry_points(group=ENTRY_POINTS)} - {BUILT_IN}
    there = importlib.util.find_spec(BUILT_IN.partition(".")[0]) is not None
    return [*([BUILT_IN] if there else []), *sorted(modules)]


def load_module(name: str, *, keep_going: bool = False) -> list[Component]:
    """Import an installed module with its sub-modules."""
    return _load(name, keep_going=keep_going)


def load_package(root: Path, modules: Sequence[str], *, id: str, version: str) -> list[Component]:
    """Import the modules of an uploaded package from its folder; what cannot be goes to `registry.refused`.

    Its components have the package's version, whatever they say: one version of a name is one content then.
    """
    before = {(one.kind, one.name): one for one in registry}
    for module in modules:
        top = module.partition(".")[0]
        try:
            with registry.all_or_nothing():
                _import(top, root.resolve())
                importlib.import_module(module)
        except (Exception, SystemExit) as error:
            registry.refused.append(RefusedComponent(name=module, reason=_place_of(error, root)))
    loaded = [one for one in registry if before.get((one.kind, one.name)) is not one]
    return [registry.replace(one.as_version(version, package=id)) for one in loaded]


def _place_of(error: BaseException, root: Path) -> str:
    """What was raised, and the last line of the package that it passed."""
    message = f"{type(error).__name__}: {error}"
    own = [at for at in traceback.extract_tb(error.__traceback__) if at.filename.startswith(f"{root}/")]
    return f"{message} ({own[-1].filename.removeprefix(f'{root}/')}, line {own[-1].lineno})" if own else message


def modules_in(path: Path) -> list[Path]:
    """The modules and packages that a path names, in order of name. Raises ComponentError where there are none."""
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
        with registry.all_or_nothing():
            module = _import(name, _parent)
    except BaseException as error:  # a module may raise SystemExit, KeyboardInterrupt or a class of its own
        reason = f"{type(error).__name__}: {error}"
        if keep_going:
            registry.refused.append(RefusedComponent(name=name, reason=reason))
            return []
        if isinstance(error, ComponentError) or not isinstance(error, Exception):
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
            f"the module name {name!r} is used by {getattr(module, '__file__', 'Python itself')}: rename the file"
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
