"""Whether elements still come in the order of their source, for functions to which it matters (`windows`).

A dataset function that cuts neighbours out of the data has the attribute `needs_order = True`; one, or a source of
sources, that changes the order has `changes_order = True`. Where an order is needed and is gone, the job is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tapeworks.errors import FailureCode, JobFailure
from tapeworks.spec import Split as SplitSpec
from tapeworks_workers.engine.operations import Applied

_CHANGING = {
    "shuffle": "shuffle changes the order of the elements",
    "drop_missing": "drop_missing leaves gaps between the elements",
    "repeat": "repeat puts the first element of the data after its last",
    "bucket_by_sequence_length": "bucket_by_sequence_length groups elements by their length",
}
TAIL = '{{"fraction": {fraction:g}, "split": "tail"}}'


def lost_by_split(fractions: Mapping[str, SplitSpec]) -> tuple[str, str] | None:
    """(what changed the order, the remedy) where fractions are drawn at random; else None."""
    drawn = {name: one.fraction for name, one in fractions.items() if one.split == "random"}
    if not drawn:
        return None
    names = " and ".join(f"data.{name}" for name in drawn)
    wanted = ", ".join(f'"{name}": {TAIL.format(fraction=fraction)}' for name, fraction in drawn.items())
    return (
        f"the split draws {names} at random, which leaves gaps between the elements",
        f"Cut the splits from the end of the series: {wanted} in data.",
    )


def lost_by_source(reference: str, source: Any) -> tuple[str, str] | None:
    """The same for a source of sources that mixes its branches."""
    if not getattr(source, "changes_order", False):
        return None
    return (
        f"the source {reference!r} mixes its sources",
        'Put the operation into the pipeline of each branch: {"source": …, "pipeline": […]}.',
    )


def last_needing(applied: Sequence[Applied]) -> int | None:
    """The position of the last operation that needs the order of the source; None where there is none."""
    found = [index for index, item in enumerate(applied) if getattr(item.function, "needs_order", False)]
    return found[-1] if found else None


def check(
    applied: Sequence[Applied], lost: tuple[str, str] | None, *, split: str, pointer: str
) -> tuple[str, str] | None:
    """What has changed the order after these operations, where `lost` had before. Raises JobFailure `invalid_spec`."""
    for index, item in enumerate(applied):
        operation, place = item.operation, f"{pointer}/{index}"
        if getattr(item.function, "needs_order", False):
            if lost is not None:
                name = operation.function.component
                raise JobFailure(
                    FailureCode.INVALID_SPEC,
                    f"{place}: {name!r} needs the {split} elements in the order of the source, and {lost[0]}",
                    hint=lost[1],
                )
        elif operation.op in _CHANGING:
            lost = (f"{place} is before it: {_CHANGING[operation.op]}", f"Move {operation.op} behind it.")
        elif getattr(item.function, "changes_order", False):
            name = operation.function.component
            lost = (f"{place} is before it: {name!r} changes the order of the elements", f"Move {name} behind it.")
    return lost
