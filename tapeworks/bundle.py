"""Open, check and load a downloaded model bundle.

`load(bundle)` gives the Keras models by role, with the bundle's own components: no worker, no registry needed.
`check(folder)` compares every file with the digests of the manifest; `extract(archive, folder)` unpacks an archive that
nobody vouches for. TensorFlow is imported by `load` only, through the bundle's own `load.py`.

Loading runs the Python files in the bundle's `components/`: load bundles of people you trust.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib.util
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from tapeworks import archives
from tapeworks.errors import BundleError

MANIFEST = "manifest.json"
FORMAT = 1


def load(bundle: str | Path, roles: Sequence[str] | None = None) -> dict[str, Any]:
    """Role → keras.Model of a bundle, given as its folder or its `.tar.gz`.

    Compiled models (one optimizer, a loss) go on with `.fit(...)`. Raises BundleError where the bundle is damaged or
    has no such role.
    """
    path = Path(bundle)
    folder = path if path.is_dir() else _extracted(path)
    manifest = check(folder, complete=False)
    held = [role for role, entry in manifest["models"].items() if entry["keras"]]
    for role in roles or ():
        if role not in held:
            raise BundleError(f"{path} has no Keras model {role!r}; it has {', '.join(held) or 'none'}")
    loader = _loader(folder)
    models: dict[str, Any] = loader.load(folder.resolve(), roles)
    return models


def check(folder: str | Path, *, complete: bool = True) -> dict[str, Any]:
    """The manifest of an unpacked bundle, once its files have the digests stated there.

    `complete=False` allows files to be missing, as in a part that was downloaded alone. Raises BundleError naming the
    first file that is missing or damaged.
    """
    folder = Path(folder)
    manifest = _manifest(folder)
    for name, entry in manifest["files"].items():
        file = folder / _safe(name)
        if not file.is_file():
            if complete:
                raise BundleError(f"{folder} is incomplete: {name} is missing")
        elif _digest(file) != entry["sha256"]:
            raise BundleError(f"{name} is damaged: its sha-256 is not the one in {MANIFEST}")
    certificate = folder / "certificate.json"
    if certificate.is_file():
        stated = _json(certificate).get("files", {}).get(MANIFEST, {}).get("sha256")
        if stated != _digest(folder / MANIFEST):
            raise BundleError(f"{MANIFEST} does not have the digest recorded in certificate.json")
    return manifest


def extract(archive: str | Path, folder: str | Path) -> Path:
    """Unpack a bundle's `.tar.gz` into `folder`, which must not exist or be empty.

    Takes plain files and folders below it only: links, devices, absolute paths and `..` raise BundleError, as do
    archives that unpack to far more than they are (`archives`). What was unpacked before an error is removed.
    """
    archive, folder = Path(archive), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BundleError(f"{folder} already exists and is not an empty folder")
    try:
        archives.extract(archive, folder)
    except (archives.UnsafeArchive, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise BundleError(f"{archive} cannot be unpacked: {error}") from error
    return folder


def _safe(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise BundleError(f"{name!r} points outside the bundle")
    return path


def _manifest(folder: Path) -> dict[str, Any]:
    if not (folder / MANIFEST).is_file():
        raise BundleError(f"{folder} is not a bundle: it has no {MANIFEST}")
    manifest = _json(folder / MANIFEST)
    if not isinstance(manifest.get("files"), dict) or not isinstance(manifest.get("models"), dict):
        raise BundleError(f"{MANIFEST} lacks 'files' or 'models'")
    if manifest.get("format") != FORMAT:
        raise BundleError(f"the bundle has format {manifest.get('format')!r}; this version reads {FORMAT}: upgrade")
    return manifest


def _json(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BundleError(f"{file.name} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise BundleError(f"{file.name} is not a JSON object")
    return document


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _extracted(archive: Path) -> Path:
    """A folder that lives as long as this process: autograph reads the components' sources when it traces."""
    if not archive.is_file():
        raise BundleError(f"{archive} does not exist")
    holder = tempfile.TemporaryDirectory(prefix="bundle-")
    atexit.register(holder.cleanup)
    return extract(archive, Path(holder.name) / "bundle")


def _loader(folder: Path) -> ModuleType:
    """The bundle's own load.py. Errors in it and in the components are the bundle's: they go through as they are."""
    file = folder.resolve() / "load.py"
    spec = importlib.util.spec_from_file_location("bundle_load", file) if file.is_file() else None
    if spec is None or spec.loader is None:
        raise BundleError(f"{folder} has no load.py")
    module = importlib.util.module_from_spec(spec)
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # a bundle's folder stays as it was
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = written
    return module
