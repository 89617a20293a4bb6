"""NaN and infinities in a split that is only evaluated: training does not end by them, so they are reported."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import tensorflow as tf

from tapeworks.errors import FailureCode
from tapeworks_workers.engine.data.fitting import fitting_part
from tapeworks_workers.engine.diagnostics.retracing import Note
from tapeworks_workers.engine.export.probes import outputs_of
from tapeworks_workers.engine.graph.element_spec import named_leaves
from tapeworks_workers.engine.models.layer_paths import listed


def non_finite_note(
    split: str, values: Mapping[str, float], batches: Iterable[Any], filled: Callable[[Any], bool] = lambda batch: False
) -> Note | None:
    """What to report of an evaluation's values; None where all are finite. Reads the batches up to the first NaN.

    `filled`: whether the models give finite outputs for a batch, so that what its x lacks is no cause.
    """
    names = [name for name, value in values.items() if not math.isfinite(value)]
    if not names:
        return None
    found = next((held for held in enumerate((_causes(batch, filled) for batch in batches), 1) if held[1]), None)
    if found is None:
        cause = "the data is finite, so the model or a loss makes it"
        hint = "Look for a division by zero, a logarithm of zero or an overflow in what only evaluation does."
    else:
        number, fields = found
        cause = f"the {split} data holds NaN or an infinity in {listed(fields)} (batch {number})"
        hint = 'Put the layer "fill_missing" first in the model, or {"op": "drop_missing"} into data.pipeline.'
    return Note(FailureCode.NON_FINITE, f"not finite in the {split} split: {listed(names)}; {cause}", hint)


def _causes(batch: Any, filled: Callable[[Any], bool]) -> list[str]:
    """The fields of a batch that hold what is not finite, less those of x that the models fill."""
    found = _fields(batch)
    of_x = [path for path in found if path == "x" or path.startswith("x.")]
    return [path for path in found if path not in of_x] if of_x and filled(batch) else found


def _fields(batch: Any) -> list[str]:
    """The fields of a batch that hold what is not finite."""
    return [path for path, leaf in named_leaves(batch) if not _finite(leaf)]


def _finite(leaf: Any) -> bool:
    if isinstance(leaf, tf.RaggedTensor):
        leaf = leaf.flat_values
    if isinstance(leaf, tf.SparseTensor):
        leaf = leaf.values
    return not leaf.dtype.is_floating or bool(tf.reduce_all(tf.math.is_finite(leaf)))


def fills(models: Mapping[str, Any], input_specs: Mapping[str, Any]) -> Callable[[Any], bool]:
    """Whether every model that takes a part of a batch gives finite outputs for it; models stay as they are."""

    def filled(batch: Any) -> bool:
        outputs = [
            outputs_of(model, part)
            for role, model in models.items()
            if (part := fitting_part(input_specs[role], batch)) is not None
        ]
        return bool(outputs) and all(_finite(leaf) for nest in outputs for leaf in tf.nest.flatten(nest))

    return filled
