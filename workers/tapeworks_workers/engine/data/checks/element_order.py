"""Whether elements still come in the order of their source, for functions to which it matters (`windows`).

A dataset function that cuts neighbours out of the data has the attribute `needs_order = True`; one, or a source of
sources, that changes the order has `changes_order = True`. Where an order is needed and is gone, the job is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tapeworks.errors import FailureCode, JobFailure
from tapeworks.spec.splits import Split as SplitSpec
from tapeworks_workers.engine.data.operations import PreparedOp
from tapeworks_workers.engine.data.splitting import rows
from tapeworks_workers.engine.data.splitting.field_values import FieldValues

_CHANGING = {
    "shuffle": "shuffle changes the order of the elements",
    "drop_missing": "drop_missing leaves gaps between the elements",
    "repeat": "repeat puts the first element of the data after its last",
    "bucket_by_sequence_length": "bucket_by_sequence_length groups elements by their length",
}
TAIL = '{{"fraction": {fraction:g}, "split": "tail"}}'


@dataclass(frozen=True)
class Disorder:
    """What changed the order of the elements, and the remedy."""

    what: str
    remedy: str
    within_series: bool = False
    """Whether the elements of each series are still in order: several series follow each other, and none has gaps."""


def lost_by_split(splits: Mapping[str, SplitSpec], values: FieldValues) -> Disorder | None:
    """Why a split leaves gaps between elements; None where it does not.

    Args:
        values: of the fields that the splits name.
    """
    drawn = {name: one.fraction for name, one in splits.items() if one.split == "random"}
    if drawn:
        names = " and ".join(f"data.{name}" for name in drawn)
        wanted = ", ".join(f'"{name}": {TAIL.format(fraction=fraction)}' for name, fraction in drawn.items())
        return Disorder(
            f"the split draws {names} at random, which leaves gaps between the elements",
            f"Cut the splits from the end of the series: {wanted} in data.",
        )
    for one in splits.values():
        if one.by is not None and not rows.in_order(values["by", one.by]):
            return Disorder(
                f"the elements are not in the order of {one.by}, by which they are split",
                "Sort the data by time; where several series follow each other, name them by key or by_file.",
                within_series=True,
            )
    return None


def lost_by_source(reference: str, source: Any) -> Disorder | None:
    """The same for a source of sources that mixes its branches."""
    if not getattr(source, "changes_order", False):
        return None
    return Disorder(
        f"the source {reference!r} mixes its sources",
        'Put the operation into the pipeline of each branch: {"source": …, "pipeline": […]}.',
    )


def last_needing(applied: Sequence[PreparedOp]) -> int | None:
    """The position of the last operation that needs the order of the source; None where there is none."""
    found = [index for index, item in enumerate(applied) if getattr(item.function, "needs_order", False)]
    return found[-1] if found else None


def check(applied: Sequence[PreparedOp], lost: Disorder | None, *, split: str, pointer: str) -> Disorder | None:
    """What has changed the order after these operations, where `lost` had before. Raises JobFailure `invalid_spec`."""
    for index, item in enumerate(applied):
        operation, place = item.operation, f"{pointer}/{index}"
        if getattr(item.function, "needs_order", False):
            if lost is not None and not (lost.within_series and _by_series(item.function)):
                name = operation.function.component
                raise JobFailure(
                    FailureCode.INVALID_SPEC,
                    f"{place}: {name!r} needs the {split} elements in the order of the source, and {lost.what}",
                    hint=lost.remedy,
                )
        elif operation.op in _CHANGING:
            lost = Disorder(f"{place} is before it: {_CHANGING[operation.op]}", f"Move {operation.op} behind it.")
        elif getattr(item.function, "changes_order", False):
            name = operation.function.component
            what = f"{place} is before it: {name!r} changes the order of the elements"
            lost = Disorder(what, f"Move {name} behind it.")
    return lost


def _by_series(function: Any) -> bool:
    return getattr(function, "key", None) is not None or bool(getattr(function, "by_file", False))
