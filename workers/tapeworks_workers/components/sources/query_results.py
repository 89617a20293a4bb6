"""Where the rows of a job's queries are: the worker ran them before the job began.

`available(rows)` holds while a job's sources are built; `result_of` finds the file of a query.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType

_rows: ContextVar[Mapping[tuple[str, str], Path]] = ContextVar("rows", default=MappingProxyType({}))


@contextmanager
def available(rows: Mapping[tuple[str, str], Path]) -> Iterator[None]:
    """Inside the block, `result_of` finds these: (connection, query) → the Arrow file."""
    token = _rows.set(rows)
    try:
        yield
    finally:
        _rows.reset(token)


def result_of(connection: str, query: str) -> Path | None:
    """The Arrow file with the rows of a query; None where it was not run for this job."""
    return _rows.get().get((connection, query))
