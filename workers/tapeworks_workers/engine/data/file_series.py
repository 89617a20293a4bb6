"""Series by file: `windows` with `by_file` takes each file of the source as a series of its own.

The engine knows how many rows of each file a split holds, whatever the elements are made of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.engine.data.operations import PreparedOp

_ONE_FOR_EACH = frozenset({"map", "cast", "one_hot", "to_sparse", "to_ragged", "prefetch", "cache"})


@dataclass(frozen=True)
class FileSeries:
    """The files of a split."""

    files: int
    """How many the source reads."""
    lengths: Callable[[], Sequence[int]] | None
    """The rows of the split that each file has, one file after another; None where they are unknown."""


def of_split(rows: Sequence[int], indices: np.ndarray | None) -> list[int]:
    """The rows of each file in a split: those at these indices, or all."""
    if indices is None:
        return list(rows)
    bounds = np.searchsorted(indices, np.concatenate([[0], np.cumsum(rows)]))
    return [int(count) for count in np.diff(bounds)]


def bound(
    applied: Sequence[PreparedOp], series: FileSeries | None, *, pointer: str, notes: list[tuple[str, str]]
) -> list[PreparedOp]:
    """The operations, functions by file bound to the series of the split. Raises JobFailure `invalid_spec`.

    Args:
        notes: gets a (code, message) where a function takes several files as one series.
    """
    found = []
    before: str | None = None
    for index, item in enumerate(applied):
        if getattr(item.function, "by_file", False):
            found.append(_by_file(item, series, f"{pointer}/{index}", before))
        else:
            found.append(item)
            if getattr(item.function, "needs_order", False) and not getattr(item.function, "key", None):
                _note(item, series, f"{pointer}/{index}", notes)
        if item.operation.op not in _ONE_FOR_EACH:
            before = before or item.operation.op
    return found


def _by_file(item: PreparedOp, series: FileSeries | None, place: str, before: str | None) -> PreparedOp:
    name = item.operation.function.component
    if before is not None:
        raise JobFailure(
            FailureCode.INVALID_SPEC,
            f"{place}: {name!r} by file takes the elements as the source gives them, and {before} is before it",
            hint=f"Move {before} behind it.",
        )
    if series is None or series.lengths is None:
        raise JobFailure(
            FailureCode.INVALID_SPEC,
            f"{place}: {name!r} by file: the source does not know which file an element is from",
            hint="Use csv, parquet, jsonl or arrays; of a source of sources, put the operation into the pipeline of "
            "each branch. Other sources name the series of an element by key.",
        )
    lengths = series.lengths
    return replace(item, apply=lambda dataset, number: item.function.of_series(dataset, lengths()))


def _note(item: PreparedOp, series: FileSeries | None, place: str, notes: list[tuple[str, str]]) -> None:
    if series is not None and series.files > 1:
        name = item.operation.function.component
        notes.append(
            (
                "several_files",
                f"{place}: {name!r} takes the {series.files} files of the source as one series, in order of name; "
                '"by_file": true makes each file a series of its own',
            )
        )
