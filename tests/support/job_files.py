"""The files that the job of a test may read: `set_data_roots` and `set_uploads` name them; `build` and `build_data` of
this module pass them to the engine as a runner does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tapeworks.schemas.assets import DataFormat
from tapeworks.spec.job_spec import JobSpec
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.data import pipeline
from tapeworks_workers.engine.factory import factory
from tapeworks_workers.engine.factory.build_context import BuildContext
from tapeworks_workers.engine.factory.data_files import DataFiles
from tapeworks_workers.engine.factory.earlier_jobs import Inputs
from tapeworks_workers.processes.messages import InputFile, UploadedDataset

_roots: list[Path] = []
_uploads: list[UploadedDataset] = []


def set_data_roots(roots: Sequence[Path]) -> None:
    """Name the folders below which files may be named."""
    _roots[:] = roots


def set_uploads(uploads: Sequence[Mapping[str, Any]]) -> None:
    """Name the datasets that were uploaded: `id`, `path` of the folder, `format`."""
    _uploads[:] = map(UploadedDataset.model_validate, uploads)


def uploaded(folder: Path, format: str, **options: Any) -> UploadedDataset:
    """A dataset that was uploaded, and unpacked into this folder."""
    return UploadedDataset(id="ds_1", path=folder, format=DataFormat(format), options=options)


def files() -> DataFiles:
    """What was named."""
    return DataFiles(_roots, _uploads)


def build(reference: Any, kind: Kind, **options: Any) -> Any:
    """The engine's `build`, with these files."""
    return factory.build(reference, kind, context=BuildContext(files()), **options)


def build_data(spec: JobSpec) -> pipeline.Data:
    """The engine's `build_data`, with these files."""
    return pipeline.build_data(spec, files())


def job_inputs(items: Sequence[Mapping[str, Any]], folder: Path) -> Inputs:
    """The earlier jobs of an attempt in this folder: `from`, `kind` and relative `path` of each."""
    return Inputs.of([InputFile.model_validate(one) for one in items], folder)
