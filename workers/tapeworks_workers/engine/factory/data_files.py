"""Which files a job may read: those below the data roots that the worker's operator named, its uploaded datasets, and
the remote files that the worker fetched for it.

Interface: `DataFiles(roots, uploads, external)`, made from the start frame; `resolve(value, …)` turns a glob, a
dataset's id, an address, or several of them into sorted local paths. Without arguments it holds no file.
"""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tapeworks.errors import FailureCode, JobFailure, Location
from tapeworks.schemas.assets import DataFormat, describes_data, is_of
from tapeworks_workers.processes.messages import FetchedFiles, QueryRows, UploadedDataset
from tapeworks_workers.remote_urls import is_remote


class DataFiles:
    """The files of one job."""

    def __init__(
        self,
        roots: Sequence[Path] = (),
        uploads: Sequence[UploadedDataset] = (),
        external: Sequence[FetchedFiles | QueryRows] = (),
    ) -> None:
        self._roots = [root.resolve() for root in roots]
        self._uploads: dict[str, tuple[Path, DataFormat]] = {
            one.id: (one.path.resolve(), one.format) for one in uploads
        }
        self._remote = {
            one.from_: [str(path) for path in one.paths] for one in external if isinstance(one, FetchedFiles)
        }
        self.query_rows = {(one.connection, one.query): one.paths[0] for one in external if isinstance(one, QueryRows)}
        """(connection, query) → the Arrow file with its rows."""
        self._read_whole: set[str] = set()
        """Datasets that were named without a pattern."""
        self._named: set[Path] = set()
        """Files of datasets that a pattern named, such as a table of labels."""

    def files_of(self, dataset: str) -> list[Path]:
        """The files of a dataset that are of its format, by their names. Raises KeyError."""
        folder, format = self._uploads[dataset]
        found = sorted(file for file in folder.rglob("*") if file.is_file())
        return [file for file in found if is_of(file.name, format)]

    def left_out_of(self, dataset: str) -> dict[str, int]:
        """Suffix → files of a dataset that are not of its format, and that no pattern named. Raises KeyError."""
        folder, format = self._uploads[dataset]
        found = (file for file in folder.rglob("*") if file.is_file() and not describes_data(file.name))
        files = (file for file in found if not is_of(file.name, format))
        return dict(sorted(Counter(_suffix(file) for file in files if file not in self._named).items()))

    def left_out_messages(self) -> list[str]:
        """What reading whole datasets left out, a message for each dataset that a job read so."""
        messages = []
        for dataset in sorted(self._read_whole):
            others = self.left_out_of(dataset)
            if others:
                counts = ", ".join(f"{count} {suffix}" for suffix, count in others.items())
                message = f"{sum(others.values())} files of the dataset {dataset!r} are not {self._uploads[dataset][1]}"
                messages.append(f"{message} and are left out: {counts}")
        return messages

    def inside(self, file: Path) -> Path:
        """A file's path below its dataset or data root; its name alone where it is in neither."""
        for folder in [*(folder for folder, _ in self._uploads.values()), *self._roots]:
            if file.is_relative_to(folder):
                return file.relative_to(folder)
        return Path(file.name)

    def resolve(self, value: str | list[str], *, component: str, pointer: str = "") -> list[str]:
        """The files that a glob (relative to a data root, or absolute below one) names, sorted, each once.

        A pattern is looked for in each root in turn; the first that has it wins. Raises JobFailure `invalid_data`:
        nothing matches, or what matches lies outside the roots (`..` and links followed).
        """
        patterns = [value] if isinstance(value, str) else value
        found: dict[str, None] = {}
        remote: dict[str, None] = {}
        for pattern in patterns:
            if is_remote(pattern):
                remote.update(dict.fromkeys(self._fetched(pattern, component, pointer)))
            else:
                found.update(dict.fromkeys(self._matches(pattern, component, pointer)))
        if not found and not remote:
            raise _refused(pointer, component, "no files are named")
        return [*sorted(found), *remote]

    def _fetched(self, address: str, component: str, pointer: str) -> list[str]:
        if address not in self._remote:
            raise _refused(pointer, component, f"{address!r} was not fetched: only a worker's job reads remote files")
        return self._remote[address]

    def _matches(self, pattern: str, component: str, pointer: str) -> list[str]:
        if pattern.startswith("ds_"):
            return self._of_dataset(*pattern.partition("/")[::2], component, pointer)
        if not self._roots:
            raise _refused(pointer, component, f"{pattern!r} cannot be read: this worker has no data root")
        for root in self._roots:
            matched = [Path(match).resolve() for match in glob.glob(str(root / pattern), recursive=True)]
            files = [match for match in matched if match.is_file()]
            inside = [match for match in files if any(match.is_relative_to(one) for one in self._roots)]
            if inside and len(inside) == len(files):
                return [str(match) for match in inside]
            if len(inside) < len(files):
                # The same words as for a file that is not there: a job learns nothing of what lies elsewhere.
                break
        raise _refused(pointer, component, f"no file below a data root matches {pattern!r}")

    def _of_dataset(self, dataset: str, inside: str, component: str, pointer: str) -> list[str]:
        if dataset not in self._uploads:
            raise _refused(pointer, component, f"the dataset {dataset!r} was not given to this attempt")
        if not inside:
            self._read_whole.add(dataset)
            return list(map(str, self.files_of(dataset)))
        folder, _ = self._uploads[dataset]
        matched = [Path(match).resolve() for match in glob.glob(str(folder / inside), recursive=True)]
        files = [str(match) for match in matched if match.is_file() and match.is_relative_to(folder)]
        if not files:
            raise _refused(pointer, component, f"no file of the dataset {dataset!r} matches {inside!r}")
        self._named.update(map(Path, files))
        return files


def _suffix(file: Path) -> str:
    return file.suffix.lower() or "without a suffix"


def _refused(pointer: str, component: str, message: str) -> JobFailure:
    return JobFailure(
        FailureCode.INVALID_DATA,
        f"{pointer}: {message}" if pointer else message,
        hint="Files are named by globs below a folder that the worker's operator gave as --data-root, or by a dataset.",
        location=Location(component=component),
    )
