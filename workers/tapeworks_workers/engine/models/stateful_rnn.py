"""Stateful RNNs (`stateful=True`) in a job: the batch size that they need, and where their states are kept.

Keras makes the states for one batch size, lists them in no layer's `variables` and saves them in no file. `fit` never
resets them: they pass from batch to batch, from an epoch to its validation and to the next epoch. So does a job, whose
checkpoints hold them. An exported model begins with zeros, as a model that Keras saved and loaded does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.engine.comparison import recurrent_states, reset_recurrent_states
from tapeworks_workers.engine.data.pipeline import Split
from tapeworks_workers.engine.models.layer_paths import layers_by_path


def stateful_path(model: Any) -> str | None:
    """The path of the first stateful RNN of a model, built or not, or of a draft."""
    stateful = (path for path, layer in layers_by_path(model) if isinstance(layer, keras.layers.RNN) and layer.stateful)
    return next(stateful, None)


def every_batch(dataset: tf.data.Dataset) -> int | None:
    """The size of every batch; None where one may be short."""
    sizes = {leaf.shape[0] if leaf.shape.rank else None for leaf in tf.nest.flatten(dataset.element_spec)}
    return sizes.pop() if len(sizes) == 1 else None


def with_batch_size(model: Any, input_spec: Any, size: Callable[[], int | None], *, pointer: str) -> Any:
    """The specs that a model with stateful RNNs is called with; those of other models stay as they are.

    `size`: of every training batch, None where one may be short. Raises JobFailure `invalid_spec`.
    """
    path = stateful_path(model)
    if path is None:
        return input_spec
    found = size()
    if found is None:
        raise _short(f"{pointer}: the layer {path!r}", "the last training batch may be short")
    own = {state.shape[0] for state in recurrent_states(model)} if model_is_built(model) else set()
    if own and own != {found}:
        raise JobFailure(
            FailureCode.INVALID_SPEC,
            f"{pointer}: the layer {path!r} is stateful and was made for batches of {sorted(own)[0]}; a training "
            f"batch holds {found}",
            hint=f'Set "batch_size": {sorted(own)[0]} in the batch operation of data.pipeline, or the model\'s own.',
        )
    return tf.nest.map_structure(lambda spec: _sized(spec, found), input_spec)


def model_is_built(model: Any) -> bool:
    return isinstance(model, keras.Model) and bool(model.built)


def call_once(model: keras.Model, input_spec: Any) -> None:
    """Build a subclassed model: Keras cannot make states without values."""
    model(tf.nest.map_structure(lambda spec: tf.zeros([size or 1 for size in spec.shape], spec.dtype), input_spec))
    reset_recurrent_states(model)


def _sized(spec: Any, size: int) -> Any:
    if not isinstance(spec, tf.TensorSpec) or not spec.shape.rank:
        return spec
    return tf.TensorSpec([size, *spec.shape.as_list()[1:]], spec.dtype, spec.name)


def check_split(models: Mapping[str, keras.Model], split: Split) -> None:
    """Batches of a split that is evaluated have the size that the states were made for. Raises JobFailure."""
    for role, model in models.items():
        sizes = {state.shape[0] for state in recurrent_states(model)}
        if not sizes:
            continue
        size = every_batch(split.dataset(0))
        if size is None:
            raise _short(
                f"/models/{role}: the layer {stateful_path(model)!r}", f"the last {split.name} batch may be short"
            )
        if {size} != sizes:
            raise JobFailure(
                FailureCode.INVALID_SPEC,
                f"/models/{role}: the layer {stateful_path(model)!r} is stateful and was made for batches of "
                f"{sorted(sizes)[0]}; a {split.name} batch holds {size}",
                hint="One batch operation for all splits, with drop_remainder, gives batches of one size.",
            )


def _short(where: str, what: str) -> JobFailure:
    return JobFailure(
        FailureCode.INVALID_SPEC,
        f"{where} is stateful (stateful=True) and takes batches of one size only, but {what}",
        hint='Set "drop_remainder": true in the batch operation of data.pipeline, or "stateful": false in the layer.',
    )
