"""The sources of a job's custom components, on their way into its bundle.

`used_components(…)` finds them: those that the spec names, and those whose classes stand in a model's config.
`copy_sources(…)` copies the files as they are into `components/`:

- a built-in file to `builtin_components/<folder>/<file>.py` (such files import nothing of their neighbours);
- a user's module or package to its own import name, with the modules beside it that it imports;
- `component_serialization.py` and the files beside it, which do there what `@component` does here;
- licences to `licenses/<owner>/`, those inside a package at their place.
"""

from __future__ import annotations

import ast
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import tapeworks
from tapeworks.components import eager_builds, layer_precision, serialization
from tapeworks.components.registry import KERAS_KINDS, Component, registry
from tapeworks.spec.references import is_reference

BUILTIN = "tapeworks_workers.components"
BUNDLED_BUILTIN = "builtin_components"
STAND_INS = {
    "component_serialization.py": serialization,
    "component_precision.py": layer_precision,
    "component_builds.py": eager_builds,
}
"""What does in a bundle what `@component` does here."""
_LICENCES = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*")


# ── which ────────────────────────────────────────────────────────────────────────────────────────


def used_components(spec: Mapping[str, Any], configs: Iterable[Any]) -> list[Component]:
    """Registered components named in the canonical spec or in serialised Keras objects, by kind and name."""
    names = set(_names(spec))
    registered = {name for config in configs for name in _registered_names(config)}
    used = [c for c in registry if c.name in names or (c.kind in KERAS_KINDS and registered_name(c) in registered)]
    return sorted(used, key=lambda component: (component.kind.value, component.name))


def registered_name(component: Component) -> str:
    """What Keras writes into configs for a component: `package>name`."""
    return ">".join(serialization.keras_name(component.name))


def _names(value: Any) -> Iterator[str]:
    if is_reference(value):
        yield value["component"]
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _names(item)


def _registered_names(config: Any) -> Iterator[str]:
    if isinstance(config, Mapping):
        if isinstance(config.get("registered_name"), str):
            yield config["registered_name"]
        if config.get("class_name") == "function" and isinstance(config.get("config"), str):
            yield config["config"]  # Keras writes a registered function's name here
    for item in config.values() if isinstance(config, Mapping) else config if isinstance(config, (list, tuple)) else ():
        yield from _registered_names(item)


# ── copying ──────────────────────────────────────────────────────────────────────────────────────


def copy_sources(components: Iterable[Component], folder: Path) -> list[dict[str, Any]]:
    """Copy what the components need below `folder`; returns the manifest's entries, paths relative to the bundle."""
    folder.mkdir(parents=True)
    for stand_in, source in STAND_INS.items():
        shutil.copyfile(str(source.__file__), folder / stand_in)
    _copy_licences(Path(tapeworks.__file__).parents[1], folder / "licenses" / "tapeworks", "tapeworks")
    entries = []
    for component in components:
        if component.file is None:
            raise FileNotFoundError(f"{component.kind} {component.name!r} was not read from a file")
        module = bundled_module(component.module)
        if component.module.startswith(BUILTIN + "."):
            file = folder / Path(*module.split(".")).with_suffix(".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(component.file, file)
        else:
            file = _copy_with_neighbours(component, folder)
        entries.append(_entry(component, module, f"{folder.name}/{file.relative_to(folder).as_posix()}"))
    return entries


def bundled_module(module: str) -> str:
    """The import name of a component's module in the bundle."""
    return BUNDLED_BUILTIN + module.removeprefix(BUILTIN) if module.startswith(BUILTIN + ".") else module


def _entry(component: Component, module: str, file: str) -> dict[str, Any]:
    return {
        "kind": component.kind.value,
        "name": component.name,
        "version": component.version,
        "digest": component.digest,
        "module": component.module,
        "bundled_module": module,
        "file": file,
        "needed_by": "models" if component.kind in KERAS_KINDS else "training",
    }


def _copy_with_neighbours(component: Component, folder: Path) -> Path:
    """Copy the top-level module or package, and what it imports from the folder beside it; the component's own file."""
    top = component.module.partition(".")[0]
    parent = _parent(top)
    waiting, seen = [top], {top}
    while waiting:
        name = waiting.pop()
        for file in _copy_module(name, parent, folder):
            for imported in _imports(file) - seen:
                if not _installed(parent) and _module_at(imported, parent):
                    seen.add(imported)
                    waiting.append(imported)
    _copy_licences(parent, folder / "licenses" / top, top)
    return folder / Path(str(component.file)).resolve().relative_to(parent)


def _parent(top: str) -> Path:
    """The folder that a top-level module was imported from."""
    file = Path(str(sys.modules[top].__file__)).resolve()
    return file.parents[1] if file.name == "__init__.py" else file.parent


def _module_at(name: str, parent: Path) -> Path | None:
    package, module = parent / name, parent / f"{name}.py"
    return package if (package / "__init__.py").is_file() else module if module.is_file() else None


def _copy_module(name: str, parent: Path, folder: Path) -> list[Path]:
    """Copy a module, or a package's Python files and licences; the Python files copied."""
    source = _module_at(name, parent)
    if source is None:
        raise FileNotFoundError(f"{parent} holds no module {name!r}")
    if source.is_file():
        files = [source]
    else:
        patterns = ("*.py", *_LICENCES)
        found = {file for pattern in patterns for file in source.rglob(pattern) if file.is_file()}
        files = sorted(file for file in found if "__pycache__" not in file.parts)
    copies = []
    for file in files:
        copy = folder / file.relative_to(parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        copies.append(copy)
    return [copy for copy in copies if copy.suffix == ".py"]


def _imports(file: Path) -> set[str]:
    """Top-level names of the absolute imports in a file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def _installed(parent: Path) -> bool:
    return bool({"site-packages", "dist-packages"} & set(parent.parts))


def _copy_licences(parent: Path, folder: Path, top: str) -> None:
    """Licences of an installed distribution, else those that stand beside the source."""
    found: list[Path] = []
    if _installed(parent):
        for name in metadata.packages_distributions().get(top, []):
            files = metadata.files(name) or []
            found += [Path(str(f.locate())) for f in files if any(f.match(pattern) for pattern in _LICENCES)]
    else:
        found = [file for pattern in _LICENCES for file in sorted(parent.glob(pattern))]
    for file in found:
        if file.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / file.name)
