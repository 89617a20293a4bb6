"""NaN and infinities in a split that is only evaluated: training does not end by them, so they are reported."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

from tapeworks.errors import FailureCode
from tapeworks_workers.engine.elements import named_leaves
from tapeworks_workers.engine.layer_paths import listed
from tapeworks_workers.engine.traces import Note


def non_finite_note(split: str, values: Mapping[str, float], batches: Iterable[Any]) -> Note | None:
    """What to report of an evaluation's values; None where all are finite. Reads the batches up to the first NaN."""
    names = [name for name, value in values.items() if not math.isfinite(value)]
    if not names:
        return None
    found = next((held for held in enumerate(map(_fields, batches), 1) if held[1]), None)
    if found is None:
        cause = "the data is finite, so the model or a loss makes it"
        hint = "Look for a division by zero, a logarithm of zero or an overflow in what only evaluation does."
    else:
        number, fields = found
        cause = f"the {split} data holds NaN or an infinity in {listed(fields)} (batch {number})"
        hint = "Fill or drop missing values in the source, or by a filter in data.pipeline."
    return Note(FailureCode.NON_FINITE, f"not finite in the {split} split: {listed(names)}; {cause}", hint)


def _fields(batch: Any) -> list[str]:
    """The fields of a batch that hold what is not finite."""
    return [path for path, leaf in named_leaves(batch) if not _finite(leaf)]


def _finite(leaf: Any) -> bool:
    if isinstance(leaf, tf.RaggedTensor):
        leaf = leaf.flat_values
    if isinstance(leaf, tf.SparseTensor):
        leaf = leaf.values
    return not leaf.dtype.is_floating or bool(tf.reduce_all(tf.math.is_finite(leaf)))
