"""The further files of an attempt: what callbacks, evaluators and the black box leave for the job.

They lie below `<attempt>/artifacts/` and are published under their path there, whatever the outcome. Together they
may have `limits.max_artifact_bytes`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tapeworks.errors import FailureCode, JobFailure
from tapeworks.schemas.report_limits import MAX_FILE_LIST_BYTES

FOLDER = "artifacts"
BLACK_BOX = "blackbox.tar"
_RESERVED = frozenset({BLACK_BOX, "model.tar.gz", "model.keras.tar.gz", "model.saved_model.tar.gz"})
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_MAX_PATH = 500
_ENTRY_BYTES = 200
"""Of a published file beside its path: its size, digest and upload."""


@dataclass(frozen=True)
class Artifacts:
    """The files of one attempt. `max_bytes`: of all of them together; None where nothing limits them."""

    attempt: Path
    max_bytes: int | None = None

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self.attempt / FOLDER

    def path(self, name: str) -> Path:
        """A local path to write to, its folder made. Raises JobFailure `component_error` for an unsafe name."""
        if not _PATH.fullmatch(name) or len(name) > _MAX_PATH:
            raise JobFailure(
                FailureCode.COMPONENT_ERROR,
                f"run.artifact({name!r}): expected a relative path of plain names",
                hint="Letters, digits, _, - and . in each part, which begins with none of - and .; / between parts.",
            )
        if name in _RESERVED:
            raise JobFailure(
                FailureCode.COMPONENT_ERROR, f"run.artifact({name!r}): the job itself writes a file of this name"
            )
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def check(self) -> None:
        """Raises JobFailure `storage_full` once the files have more bytes than the job may leave."""
        total = sum(file.stat().st_size for file in self._files())
        if self.max_bytes is not None and total > self.max_bytes:
            raise JobFailure(
                FailureCode.STORAGE_FULL,
                f"the files of callbacks and evaluators have {total} bytes together, limits.max_artifact_bytes allows "
                f"{self.max_bytes}",
                hint="Raise limits.max_artifact_bytes, or write fewer or smaller files.",
                retryable=False,
            )

    def published(self) -> tuple[list[str], list[str]]:
        """(paths below the attempt's folder to publish, names of those the limits leave no room for).

        The black box goes first, then file by file in the order of their paths.
        """
        kept: list[str] = []
        left_out: list[str] = []
        total = listed = 0
        for file in sorted(self._files(), key=lambda file: (file.name != BLACK_BOX, file)):
            size = file.stat().st_size
            listed += len(file.relative_to(self.folder).as_posix()) + _ENTRY_BYTES
            if listed > MAX_FILE_LIST_BYTES or (self.max_bytes is not None and total + size > self.max_bytes):
                left_out.append(file.relative_to(self.folder).as_posix())
                continue
            total += size
            kept.append(file.relative_to(self.attempt).as_posix())
        return kept, left_out

    def _files(self) -> list[Path]:
        return [file for file in self.folder.rglob("*") if file.is_file() and not file.is_symlink()]
