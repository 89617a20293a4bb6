"""Which files a job may read: those below the data roots that the worker's operator named, and its uploaded datasets.

Interface: `set_data_roots(roots)` and `set_uploads(uploads)` once at the start of a process; `resolve_files(value, …)`
turns a glob, a dataset's id, or several of them into sorted local paths.
"""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tapeworks.errors import FailureCode, JobFailure, Location
from tapeworks.schemas.assets import DataFormat, describes_data, is_of
from tapeworks_workers.remote_urls import is_remote

_roots: list[Path] = []
_uploads: dict[str, tuple[Path, DataFormat]] = {}
_remote: dict[str, list[str]] = {}
_read_whole: set[str] = set()
"""Datasets that were named without a pattern."""
_named: set[Path] = set()
"""Files of datasets that a pattern named, such as a table of labels."""


def set_data_roots(roots: Sequence[Path]) -> None:
    """Name the folders below which `tapeworks.Files` arguments may reach."""
    _roots[:] = [Path(root).resolve() for root in roots]


def set_uploads(uploads: Sequence[Mapping[str, Any]]) -> None:
    """Name the datasets that the job was given: `id`, `path` of the folder, `format`."""
    _uploads.clear()
    _read_whole.clear()
    _named.clear()
    for one in uploads:
        _uploads[one["id"]] = (Path(one["path"]).resolve(), DataFormat(one["format"]))


def set_remote_files(fetched: Sequence[Mapping[str, Any]]) -> None:
    """Name the remote files that the worker fetched: `from` as in the spec, `paths` in order of their addresses."""
    _remote.clear()
    _remote.update({one["from"]: list(one["paths"]) for one in fetched if "from" in one})


def files_of(dataset: str) -> list[Path]:
    """The files of a dataset that are of its format, by their names. Raises KeyError."""
    folder, format = _uploads[dataset]
    found = sorted(file for file in folder.rglob("*") if file.is_file())
    return [file for file in found if is_of(file.name, format)]


def left_out_of(dataset: str) -> dict[str, int]:
    """Suffix → files of a dataset that are not of its format, and that no pattern named. Raises KeyError."""
    folder, format = _uploads[dataset]
    found = (file for file in folder.rglob("*") if file.is_file() and not describes_data(file.name))
    files = (file for file in found if not is_of(file.name, format))
    return dict(sorted(Counter(_suffix(file) for file in files if file not in _named).items()))


def left_out_messages() -> list[str]:
    """What reading whole datasets left out, a message for each dataset that a job read so."""
    messages = []
    for dataset in sorted(_read_whole):
        others = left_out_of(dataset)
        if others:
            counts = ", ".join(f"{count} {suffix}" for suffix, count in others.items())
            told = f"{sum(others.values())} files of the dataset {dataset!r} are not {_uploads[dataset][1]}"
            messages.append(f"{told} and are left out: {counts}")
    return messages


def inside(file: Path) -> Path:
    """A file's path below its dataset or data root; its name alone where it is in neither."""
    for folder in [*(folder for folder, _ in _uploads.values()), *_roots]:
        if file.is_relative_to(folder):
            return file.relative_to(folder)
    return Path(file.name)


def _suffix(file: Path) -> str:
    return file.suffix.lower() or "without a suffix"


def resolve_files(value: str | list[str], *, component: str, pointer: str = "") -> list[str]:
    """The files that a glob (relative to a data root, or absolute below one) names, sorted, each once.

    A pattern is looked for in each root in turn; the first that has it wins. Raises JobFailure `invalid_data`:
    nothing matches, or what matches lies outside the roots (`..` and links followed).
    """
    patterns = [value] if isinstance(value, str) else value
    found: dict[str, None] = {}
    remote: dict[str, None] = {}
    for pattern in patterns:
        if is_remote(pattern):
            remote.update(dict.fromkeys(_fetched(pattern, component, pointer)))
        else:
            found.update(dict.fromkeys(_matches(pattern, component, pointer)))
    if not found and not remote:
        raise _refused(pointer, component, "files is empty")
    return [*sorted(found), *remote]


def _fetched(address: str, component: str, pointer: str) -> list[str]:
    if address not in _remote:
        raise _refused(pointer, component, f"{address!r} was not fetched: only a worker's job reads remote files")
    return _remote[address]


def _matches(pattern: str, component: str, pointer: str) -> list[str]:
    if pattern.startswith("ds_"):
        return _of_dataset(*pattern.partition("/")[::2], component, pointer)
    if not _roots:
        raise _refused(pointer, component, f"{pattern!r} cannot be read: this worker has no data root")
    for root in _roots:
        matched = [Path(match).resolve() for match in glob.glob(str(root / pattern), recursive=True)]
        files = [match for match in matched if match.is_file()]
        inside = [match for match in files if any(match.is_relative_to(one) for one in _roots)]
        if inside and len(inside) == len(files):
            return [str(match) for match in inside]
        if len(inside) < len(files):
            # The same words as for a file that is not there: a job learns nothing of what lies elsewhere.
            break
    raise _refused(pointer, component, f"no file below a data root matches {pattern!r}")


def _of_dataset(dataset: str, inside: str, component: str, pointer: str) -> list[str]:
    if dataset not in _uploads:
        raise _refused(pointer, component, f"the dataset {dataset!r} is not an input of this attempt")
    if not inside:
        _read_whole.add(dataset)
        return list(map(str, files_of(dataset)))
    folder, _ = _uploads[dataset]
    matched = [Path(match).resolve() for match in glob.glob(str(folder / inside), recursive=True)]
    files = [str(match) for match in matched if match.is_file() and match.is_relative_to(folder)]
    if not files:
        raise _refused(pointer, component, f"no file of the dataset {dataset!r} matches {inside!r}")
    _named.update(map(Path, files))
    return files


def _refused(pointer: str, component: str, message: str) -> JobFailure:
    return JobFailure(
        FailureCode.INVALID_DATA,
        f"{pointer}: {message}" if pointer else message,
        hint="Files are named by globs below a folder that the worker's operator gave as --data-root, or by a dataset.",
        location=Location(component=component),
    )
