"""Where the rows of a job's queries lie: the worker ran them before the job began.

`set_results` is called once at the start of a process; `result_of` finds the file of a query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_results: dict[tuple[str, str], Path] = {}


def set_results(fetched: Sequence[Mapping[str, Any]]) -> None:
    """Name the queries that were run: `connection`, `query`, `paths` of one file."""
    _results.clear()
    for one in fetched:
        if "query" in one:
            _results[one["connection"], one["query"]] = Path(one["paths"][0])


def result_of(connection: str, query: str) -> Path | None:
    """The Arrow file with the rows of a query; None where it was not run for this job."""
    return _results.get((connection, query))
