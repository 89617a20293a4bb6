"""The last step of an export: certificate, archives, sizes.

`seal(folder, reports, …)` writes `certificate.json` (what both verifiers compared, in which versions) and packs the
bundle: `NAME.tar.gz`, and `NAME.keras.tar.gz` and `NAME.saved_model.tar.gz` with that part alone. The same files give
the same bytes: members sorted, times and owners zero.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.frames import finite

FORMAT = 1
"""Of the bundle's layout; a reader refuses a newer one."""
_LOADER = ("load.py", "manifest.json", "certificate.json", "components/", "probes/")


@dataclass(frozen=True)
class Sealed:
    """The archives of a bundle, and what the job tells of it."""

    bundle: Path
    parts: dict[str, Path]
    formats: list[str]
    verified: dict[str, Any]
    """Verifier → report, versions, device and tolerance: the certificate without its list of files."""


def seal(
    folder: Path, reports: Mapping[str, Any], *, name: str = "model", max_artifact_bytes: int | None = None
) -> Sealed:
    """Certify and pack a verified bundle; archives are written beside its folder.

    `reports`: verifier → its report (`reload`, `certify`). Raises JobFailure `storage_full` where the bundle is larger
    than `max_artifact_bytes`.
    """
    manifest_file = folder / "manifest.json"
    manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
    certificate = {
        "format": FORMAT,
        "verified": dict(reports),
        "versions": manifest["versions"],
        "device": manifest["device"],
        "tolerance": manifest["tolerance"],
        "files": {**manifest["files"], "manifest.json": file_entry(manifest_file)},
    }
    write_json(folder / "certificate.json", certificate)
    formats = [f for f in ("keras", "saved_model") if any(entry[f] for entry in manifest["models"].values())]
    prefixes = {"keras": (*_LOADER, "models/"), "saved_model": ("saved_model/", "certificate.json")}
    bundle = _pack(folder, folder.parent / f"{name}.tar.gz", lambda path: True)
    if max_artifact_bytes is not None and bundle.stat().st_size > max_artifact_bytes:
        raise JobFailure(
            FailureCode.STORAGE_FULL,
            f"the bundle has {bundle.stat().st_size} bytes, limits.max_artifact_bytes allows {max_artifact_bytes}",
            hint="Raise limits.max_artifact_bytes, or export fewer models or formats.",
            retryable=False,
        )
    parts = {
        part: _pack(folder, folder.parent / f"{name}.{part}.tar.gz", _begins_with(prefixes[part])) for part in formats
    }
    verified = {**certificate["verified"], **{name: certificate[name] for name in ("versions", "device", "tolerance")}}
    return Sealed(bundle, parts, formats, verified)


def _begins_with(prefixes: tuple[str, ...]) -> Callable[[str], bool]:
    return lambda path: path.startswith(prefixes)


def _pack(folder: Path, archive: Path, wanted: Callable[[str], bool]) -> Path:
    """Regular files only, at the archive's root."""
    with (
        archive.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=1, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name in bundle_files(folder):
            if wanted(name):
                info = tarfile.TarInfo(name)
                info.size, info.mode = (folder / name).stat().st_size, 0o644
                with (folder / name).open("rb") as file:
                    tar.addfile(info, file)
    return archive


def bundle_files(folder: Path) -> list[str]:
    """The bundle's files, relative with forward slashes, sorted; caches of the interpreter are none of them."""
    files = (file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return sorted(file.relative_to(folder).as_posix() for file in files)


def file_entry(file: Path) -> dict[str, Any]:
    """Size and digest of a file, as manifest and certificate list it."""
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": digest}


def write_json(file: Path, document: Any) -> None:
    """JSON with keys in the document's order; numbers that are not finite as the strings of the HTTP contract.

    Keys are not sorted: a component makes its layers in the order of a dict argument, and Keras restores by position.
    """
    text = json.dumps(finite(document), indent=1, ensure_ascii=False, allow_nan=False)
    file.write_text(text + "\n", encoding="utf-8")
