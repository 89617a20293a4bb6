"""Which elements each split gets: their indices in the order of the source, from what the spec says of each split.

`test` and `validation` by `tail` or `time` are cut off the end first, `test` the last. Elements are drawn at random
from the rest, `validation` first. What is left is for training.

| split | number of elements, n of the whole source |
|---|---|
| `random`, `tail` | `round(n·f)` |
| `stratify` | the same; each class gets its share of them rounded down or up, by the largest remainders |
| `group` | whole groups in a seeded order, each where it brings the number nearer to `n·f` |
| `time` | whole times, the latest, as many as come nearest to `n·f` |

Indices depend on the values and the seed alone, not on how the source is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from tapeworks.errors import FailureCode, JobFailure
from tapeworks.spec.splits import Split as SplitSpec
from tapeworks_workers.engine.data.splitting.field_values import Categories, FieldValues, Values
from tapeworks_workers.engine.graph.randomness import derive_seed

Indices = np.ndarray[Any, np.dtype[np.int64]]
_FAR = 0.1
"""Of the number asked for: a split by group that is farther off is reported."""
_SHOWN = 3


@dataclass(frozen=True)
class Chosen:
    """The indices of each split, in ascending order, and what is to be reported of them."""

    indices: dict[str, Indices]
    notes: list[str] = field(default_factory=list)


def choose(size: int, splits: Mapping[str, SplitSpec], values: FieldValues, *, seed: int) -> Chosen:
    """The indices of `training` and each split named.

    Args:
        size: elements of the source.
        values: of the fields that the splits name, for all elements of the source.

    Raises JobFailure `invalid_data` for a split, or training, that would be empty, and for classes, groups and times
    that cannot be divided.
    """
    left = np.arange(size)
    chosen: dict[str, Indices] = {}
    notes: list[str] = []
    for name in ("test", "validation"):
        one = splits.get(name)
        if one is not None and one.split != "random":
            count = _count(size, one, name)
            if one.split == "time":
                of_left = _times(values["by", str(one.by)])[left]
                late = of_left >= _first_late(of_left, count, str(one.by), name)
                left, chosen[name] = left[~late], left[late]
            else:
                kept = max(0, len(left) - count)
                left, chosen[name] = left[:kept], left[kept:]
    drawn = {name: splits[name] for name in ("validation", "test") if name in splits and name not in chosen}
    if drawn:
        # RandomState: its permutations are the same in every NumPy.
        left = left[np.random.RandomState(derive_seed(seed, "split")).permutation(len(left))]
    pool = left
    for name, one in drawn.items():
        count = _count(size, one, name)
        if one.stratify is not None:
            classes = _categories(values["stratify", one.stratify])
            taken = _of_each_class(classes, left, pool, count, splits=len(drawn), place=f"{name} (by {one.stratify})")
        elif one.group is not None:
            taken = _whole_groups(
                _categories(values["group", one.group]), left, size, count, seed, str(one.group), name
            )
            if abs(taken.sum() - count) > _FAR * count:
                share = f"{taken.sum() / size:.3g} of the elements, not {one.fraction:g}"
                notes.append(f"the {name} split holds {share}: groups of {one.group} are not divided")
        else:
            taken = np.arange(len(left)) < count
        chosen[name], left = np.sort(left[taken]), left[~taken]
    found = {"training": np.sort(left), **chosen}
    for name, indices in found.items():
        if len(indices) == 0:
            raise _empty(name, size)
    return Chosen(found, notes)


def _count(size: int, split: SplitSpec, name: str) -> int:
    count = round(size * split.fraction)
    if count == 0:
        raise _empty(name, size)
    return count


def _empty(name: str, size: int) -> JobFailure:
    hint = "Take a larger fraction, or give the split a source of its own."
    if name == "training":
        hint = "Take smaller fractions, or give validation and test sources of their own."
    return _refused(f"the {name} split is empty: the source has {size} elements", hint)


# ── time ─────────────────────────────────────────────────────────────────────────────────────────


def _times(values: Values) -> np.ndarray[Any, Any]:
    return cast(np.ndarray[Any, Any], values)


def _first_late(times: np.ndarray[Any, Any], count: int, by: str, name: str) -> Any:
    """The first time of the split: elements of one time are not divided. Raises JobFailure where all have one time."""
    distinct, sizes = np.unique(times, return_counts=True)
    if len(distinct) < 2:
        raise _refused(
            f"the {name} split by time: all {len(times)} elements have one {by}, so none is later",
            'Give another field in "by", or the split a source of its own.',
        )
    late = np.cumsum(sizes[::-1])[:-1]  # of the latest 1, 2, … times; training keeps the first
    distance = np.abs(late - count)
    nearest = len(late) - 1 - int(np.argmin(distance[::-1]))  # of two that are as near, the larger split
    return distinct[len(distinct) - 1 - nearest]


def in_order(values: Values) -> bool:
    """Whether times never go back from one element to the next."""
    times = _times(values)
    return bool((times[1:] >= times[:-1]).all())


# ── classes ──────────────────────────────────────────────────────────────────────────────────────


def _categories(values: Values) -> Categories:
    return cast(Categories, values)


def _of_each_class(
    classes: Categories, left: Indices, pool: Indices, count: int, *, splits: int, place: str
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which of `left` are taken: of each class its share of `pool`, the first ones in the order of `left`.

    Training keeps one element of each class at least. Raises JobFailure for a class with too few elements.
    """
    present, of_pool = np.unique(classes.codes[pool], return_counts=True)
    few = present[of_pool < 1 + splits]
    if len(few):
        shown = ", ".join(repr(classes.name(code)) for code in few[:_SHOWN]) + (", …" if len(few) > _SHOWN else "")
        raise _refused(
            f"the split {place}: {len(few)} of {len(present)} classes have fewer than {1 + splits} elements: {shown}",
            "Leave stratify out, remove these elements, or join rare classes. Numbers that are not classes need no "
            "stratify.",
        )
    codes = np.searchsorted(present, classes.codes[left])
    available = np.bincount(codes, minlength=len(present)) - 1
    shares = apportioned(of_pool * (count / len(pool)), count, available)
    # The place of each element among those of its class, in the order of `left`.
    by_class = np.argsort(codes, kind="stable")
    begins = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(present)))[:-1]])
    place_in_class = np.empty(len(left), np.int64)
    place_in_class[by_class] = np.arange(len(left)) - begins[codes[by_class]]
    return np.asarray(place_in_class < shares[codes])


def apportioned(shares: Sequence[float] | np.ndarray[Any, Any], count: int, most: np.ndarray[Any, Any]) -> Indices:
    """Whole numbers for these shares, each rounded down or up and none above `most`: `count` together where it fits.

    The largest remainders are rounded up, the first of equal ones: the method of scikit-learn's
    `StratifiedShuffleSplit`, which draws among equal ones.
    """
    exact = np.asarray(shares, np.float64)
    down = np.minimum(np.floor(exact + 1e-9).astype(np.int64), most)
    order = np.argsort(-(exact - down), kind="stable")
    order = order[down[order] < most[order]]
    down[order[: max(0, count - int(down.sum()))]] += 1
    return down


# ── groups ───────────────────────────────────────────────────────────────────────────────────────


def _whole_groups(
    groups: Categories, left: Indices, size: int, count: int, seed: int, by: str, name: str
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which of `left` are taken: groups of which nothing is in another split. Raises JobFailure."""
    codes = groups.codes[left]
    sizes = np.bincount(codes, minlength=groups.count)
    whole = np.flatnonzero((sizes > 0) & (sizes == np.bincount(groups.codes, minlength=groups.count)))
    # Groups that lie in the given order of their names get the order of a permutation.
    order = whole[np.random.RandomState(derive_seed(seed, "split", by)).permutation(len(whole))]
    total, chosen = 0, np.zeros(groups.count, bool)
    for code in order:
        if abs(total + sizes[code] - count) < abs(total - count):
            total += int(sizes[code])
            chosen[code] = True
    if not total or total == len(left):
        smallest = int(sizes[whole].min()) if len(whole) else 0
        raise _refused(
            f"the {name} split by group: no group of {by} fits: the smallest of {len(whole)} has {smallest} elements, "
            f"and {count} of {size} are to be set aside",
            "Take another fraction or field, or give the split a source of its own.",
        )
    return np.asarray(chosen[codes])


def _refused(message: str, hint: str) -> JobFailure:
    return JobFailure(FailureCode.INVALID_DATA, message, hint=hint)
