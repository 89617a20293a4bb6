"""The last step of an export: certificate, archives, sizes.

`seal(folder, reports, …)` writes `certificate.json` (what both verifiers compared, in which versions, and what that
proves) and packs the bundle: `NAME.tar.gz`, and `NAME.keras.tar.gz` and `NAME.saved_model.tar.gz` with that part alone.
The same files give the same bytes: members sorted, times and owners zero.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.engine.comparison import versions
from tapeworks_workers.engine.observation import device_of
from tapeworks_workers.processes.frames import finite

FORMAT = 1
"""Of the bundle's layout; a reader refuses a newer one."""
BUNDLED_LOADER = Path(__file__).parent / "bundled" / "load.py"
"""The `load.py` of every bundle."""
CERTIFICATE = "certificate.json"
SCOPE = (
    "The worker computed the digests of these files before they were loaded, and made every comparison in a process "
    "that ran none of the bundle's code; the values on both sides were computed by processes that did run it (the "
    "reference while training, the other after loading these files), so code that means to deceive could have written "
    "any values."
)
"""What a certificate proves, and what it does not."""
_LOADER = ("load.py", "manifest.json", CERTIFICATE, "components/", "probes/")


@dataclass(frozen=True)
class Sealed:
    """The archives of a bundle, and what the job tells of it."""

    bundle: Path
    parts: dict[str, Path]
    formats: list[str]
    verified: dict[str, Any]
    """Verifier → report, scope, versions, device and tolerance: the certificate without its list of files."""
    digests: dict[Path, dict[str, Any]]
    """Archive → size and digest."""


def seal(
    folder: Path,
    reports: Mapping[str, Any],
    *,
    name: str = "model",
    into: Path | None = None,
    files: Mapping[str, Mapping[str, Any]] | None = None,
    max_artifact_bytes: int | None = None,
) -> Sealed:
    """Certify and pack a verified bundle; archives are written to `into`, or beside its folder.

    `reports`: verifier → its report (`reload`, `certify`). `files`: the digests that the packed files must have, all of
    them; default: those in the manifest. Raises JobFailure `storage_full` where the bundle is larger than
    `max_artifact_bytes`, `reload_mismatch` where a file changed since.
    """
    manifest_file = folder / "manifest.json"
    manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
    if files is None:
        files = {**manifest["files"], "manifest.json": file_entry(manifest_file)}
    certificate: dict[str, Any] = {
        "format": FORMAT,
        "scope": SCOPE,
        "verified": dict(reports),
        "versions": {**versions(), "tapeworks": metadata.version("tapeworks")},
        "device": device_of(manifest["device"]),
        "tolerance": float(manifest["tolerance"]),
        "files": {name: dict(files[name]) for name in sorted(files)},
    }
    write_json(folder / CERTIFICATE, certificate)
    expected = {**files, CERTIFICATE: file_entry(folder / CERTIFICATE)}
    formats = [f for f in ("keras", "saved_model") if any(entry[f] for entry in manifest["models"].values())]
    prefixes = {"keras": (*_LOADER, "models/"), "saved_model": ("saved_model/", CERTIFICATE)}
    target = folder.parent if into is None else into
    target.mkdir(parents=True, exist_ok=True)
    bundle = target / f"{name}.tar.gz"
    digests = {bundle: _pack(folder, bundle, expected, lambda path: True)}
    if max_artifact_bytes is not None and digests[bundle]["bytes"] > max_artifact_bytes:
        raise JobFailure(
            FailureCode.STORAGE_FULL,
            f"the bundle has {digests[bundle]['bytes']} bytes, limits.max_artifact_bytes allows {max_artifact_bytes}",
            hint="Raise limits.max_artifact_bytes, or export fewer models or formats.",
            retryable=False,
        )
    parts = {part: target / f"{name}.{part}.tar.gz" for part in formats}
    for part, archive in parts.items():
        digests[archive] = _pack(folder, archive, expected, _begins_with(prefixes[part]))
    about = {key: certificate[key] for key in ("scope", "versions", "device", "tolerance")}
    return Sealed(bundle, parts, formats, {**certificate["verified"], **about}, digests)


def _begins_with(prefixes: tuple[str, ...]) -> Callable[[str], bool]:
    return lambda path: path.startswith(prefixes)


def _pack(
    folder: Path, archive: Path, files: Mapping[str, Mapping[str, Any]], wanted: Callable[[str], bool]
) -> dict[str, Any]:
    """Pack these files, at the archive's root: size and digest of the archive. Raises JobFailure where one changed."""
    with archive.open("wb") as raw:
        written = _Digested(raw)
        with (
            gzip.GzipFile(filename="", mode="wb", fileobj=written, compresslevel=1, mtime=0) as compressed,
            tarfile.open(fileobj=compressed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
        ):
            for name in sorted(filter(wanted, files)):
                info = tarfile.TarInfo(name)
                info.size, info.mode = int(files[name]["bytes"]), 0o644
                with (folder / name).open("rb") as file:
                    read = _Digested(file)
                    tar.addfile(info, read)
                if read.digest.hexdigest() != files[name]["sha256"]:
                    raise JobFailure(FailureCode.RELOAD_MISMATCH, f"{name} changed after it was verified")
    return {"bytes": archive.stat().st_size, "sha256": written.digest.hexdigest()}


class _Digested:
    """A file whose bytes are digested as they are read or written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Part of a file's interface."""
        data = self._file.read(size)
        self.digest.update(data)
        return data

    def write(self, data: Any) -> int:
        """Part of a file's interface."""
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Part of a file's interface."""
        self._file.flush()


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
