"""The built-in components, registered once; what a test registers is forgotten after it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapeworks.errors import FailureCode, JobFailure
from tapeworks.spec.references import Kind
from tapeworks_workers.components.sources import parts
from tests.support.job_files import build, set_data_roots
from tests.support.registered import as_it_was, built_in  # noqa: F401 — fixtures


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are a stream of parts, as large ones are."""
    monkeypatch.setattr(parts, "WHOLE_FILE_BYTES", 0)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A data root."""
    folder = tmp_path / "data"
    folder.mkdir()
    set_data_roots([folder])
    yield folder
    set_data_roots([])


def source(name: str, **config: Any) -> Any:
    return build({"component": name, "config": config}, Kind.SOURCE, pointer="/data/source")


def columns_of(one: Any) -> dict[str, list[Any]]:
    """The columns of a source of dicts."""
    (batch,) = one.dataset().batch(1_000_000)
    return {name: [_plain(value) for value in tensor.numpy().tolist()] for name, tensor in batch.items()}


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def fails_at_once(one: Any, message: str) -> None:
    """The source is refused before a row is read."""
    with pytest.raises(JobFailure, match=message) as refused:
        one.dataset()
    assert refused.value.code is FailureCode.INVALID_DATA
