"""A package's own metadata, read as text: name, version, entry points, dependencies. Nothing of it is imported.

A wheel says it in its `.dist-info`, a zip of sources in `pyproject.toml` at its top or in its one folder. Everything
that keeps the package out is found in one go.
"""

from __future__ import annotations

import configparser
import re
import sys
import tomllib
from dataclasses import dataclass, field
from email.parser import Parser
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from tapeworks.archives import Archive, UnsafeArchive

GROUP = "tapeworks.components"
_MAX_TEXT_BYTES = 1 << 20
_NATIVE = (".so", ".pyd", ".dll", ".dylib")
_OURS = frozenset({"tapeworks", "tapeworks_workers", "tapeworks_service", "builtin_components"})
_TAKEN = _OURS | {"tensorflow", "keras", "numpy"}
_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_ENTRY_POINTS = (
    'Announce its modules: [project.entry-points."tapeworks.components"] acme = "acme_losses" in pyproject.toml.'
)


@dataclass
class Metadata:
    """What a package says of itself, and what is wrong with it."""

    name: str = ""
    version: str = ""
    root: str = ""
    """The folder in the archive that its modules lie in."""
    modules: list[str] = field(default_factory=list)
    """Those that the entry points name."""
    requires: list[str] = field(default_factory=list)
    findings: list[tuple[str, str]] = field(default_factory=list)
    """Message and hint."""

    @property
    def top_level(self) -> list[str]:
        """The top-level names of its modules."""
        return sorted({module.partition(".")[0] for module in self.modules})

    def document(self) -> dict[str, Any]:
        """The metadata as the document stored with the asset."""
        kept = ("root", "modules", "top_level", "requires")
        return {name: getattr(self, name) for name in kept}

    def lacks(self, message: str, hint: str = "") -> None:
        """Note something that keeps it out."""
        self.findings.append((message, hint))


def read_metadata(path: Path) -> Metadata:
    """The metadata of a wheel or a zip of sources. Raises UnsafeArchive where the file cannot be opened safely."""
    archive = Archive.open(path)
    if archive is None or archive.kind != "zip":
        raise UnsafeArchive("a package is a wheel or a zip of sources")
    names, texts = _read(archive)
    wheel = [name for name in texts if name.endswith(".dist-info/METADATA")]
    projects = sorted((name for name in texts if PurePosixPath(name).name == "pyproject.toml"), key=len)
    metadata = Metadata()
    if wheel:
        _of_wheel(metadata, texts, str(PurePosixPath(wheel[0]).parent))
    elif projects:
        _of_project(metadata, texts[projects[0]], str(PurePosixPath(projects[0]).parent), names)
    else:
        metadata.lacks("it has neither a .dist-info nor a pyproject.toml", "Push a project's folder, or a wheel.")
    _check(metadata, names)
    return metadata


def _read(archive: Archive) -> tuple[set[str], dict[str, str]]:
    """All names, and the few files that are read."""
    names, texts = set(), {}
    with archive.entries() as entries:
        for entry, opened in entries:
            names.add(entry.name)
            parts = PurePosixPath(entry.name).parts
            in_wheel = len(parts) == 2 and parts[0].endswith(".dist-info")
            if in_wheel or (len(parts) <= 2 and parts[-1] == "pyproject.toml"):
                if entry.size > _MAX_TEXT_BYTES:
                    continue
                with opened() as file:
                    texts[entry.name] = file.read(_MAX_TEXT_BYTES).decode("utf-8", "replace")
    return names, texts


def _of_wheel(metadata: Metadata, texts: dict[str, str], folder: str) -> None:
    headers = Parser().parsestr(texts[f"{folder}/METADATA"], headersonly=True)
    metadata.name, metadata.version = str(headers.get("Name", "")), str(headers.get("Version", ""))
    metadata.requires = [str(one) for one in headers.get_all("Requires-Dist") or []]
    wheel = Parser().parsestr(texts.get(f"{folder}/WHEEL", ""), headersonly=True)
    if str(wheel.get("Root-Is-Purelib", "true")).lower() != "true":
        metadata.lacks("the wheel is built for one platform", "Only pure-Python wheels are accepted: py3-none-any.")
    points = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=False)
    points.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        points.read_string(texts.get(f"{folder}/entry_points.txt", ""))
    except configparser.Error as error:
        metadata.lacks(f"entry_points.txt cannot be read: {error.message}")
        return
    _take_points(metadata, dict(points.items(GROUP)) if points.has_section(GROUP) else {})


def _of_project(metadata: Metadata, text: str, folder: str, names: set[str]) -> None:
    try:
        project = tomllib.loads(text).get("project", {})
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        metadata.lacks(f"pyproject.toml cannot be read: {error}")
        return
    if not isinstance(project, dict):
        project = {}
    metadata.name, metadata.version = str(project.get("name", "")), str(project.get("version", ""))
    if "version" in (project.get("dynamic") or ()) and not metadata.version:
        metadata.lacks("its version is dynamic", 'Write version = "1.0" into [project], or push a wheel.')
    dependencies = project.get("dependencies", [])
    metadata.requires = [str(one) for one in dependencies] if isinstance(dependencies, list) else []
    groups = project.get("entry-points", {})
    points = groups.get(GROUP, {}) if isinstance(groups, dict) else {}
    _take_points(metadata, points if isinstance(points, dict) else {})
    root = "" if folder == "." else folder
    source = f"{root}/src" if root else "src"
    tops = metadata.top_level
    metadata.root = source if tops and all(_there(top, source, names) for top in tops) else root


def _take_points(metadata: Metadata, points: dict[str, Any]) -> None:
    if not points:
        metadata.lacks(f"it has no entry point in the group {GROUP}", _ENTRY_POINTS)
    for name, value in points.items():
        module = str(value).partition(":")[0].strip()
        if _MODULE.fullmatch(module):
            metadata.modules.append(module)
        else:
            metadata.lacks(
                f"the entry point {name[:100]!r} does not name a module: {str(value)[:100]!r}", _ENTRY_POINTS
            )


def _check(metadata: Metadata, names: set[str]) -> None:
    """What is wrong whichever way the metadata came."""
    if not metadata.name:
        metadata.lacks("it has no name", 'Write name = "acme-losses" into [project] of pyproject.toml.')
    elif not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?", metadata.name):
        metadata.lacks(f"{metadata.name[:100]!r} is not a valid package name")
    metadata.name = str(canonicalize_name(metadata.name))
    try:
        metadata.version = str(Version(metadata.version))
        if len(metadata.version) > 64:
            metadata.lacks("its version is longer than 64 characters")
    except InvalidVersion:
        shown = metadata.version[:100]
        metadata.lacks(
            f"{shown!r} is not a valid version" if shown else "it has no version", 'Write version = "1.0.0".'
        )
    if native := sorted(name for name in names if name.lower().endswith(_NATIVE)):
        metadata.lacks(f"{native[0]} is compiled code", "Only pure-Python packages are accepted.")
    for top in metadata.top_level:
        if top in _TAKEN or top in sys.stdlib_module_names:
            metadata.lacks(f"its module {top!r} has a name that is already in use", "Rename the module.")
        elif not _there(top, metadata.root, names):
            metadata.lacks(f"its module {top!r} is not in the archive", "Put it beside pyproject.toml or below src/.")


def _there(top: str, root: str, names: set[str]) -> bool:
    prefix = f"{root}/" if root else ""
    return f"{prefix}{top}.py" in names or f"{prefix}{top}/__init__.py" in names
