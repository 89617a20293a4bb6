"""Probes: what each exported model gives for real batches, stored so that any process can ask the reloaded one.

A model is called with `training=False`; every value it holds is put back afterwards (random layers move their seeds
even then). The states of seed generators are stored beside the outputs: `.keras` does not keep them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks_workers.engine.comparison import probe, recurrent_states, reset_recurrent_states, seed_variables
from tapeworks_workers.engine.data.example_tensors import sample
from tapeworks_workers.engine.data.fitting import _tensor, fitting_part
from tapeworks_workers.engine.export.tensor_json import Arrays

_SYNTHETIC_SEED = 20_170_814
_UNKNOWN_SIZE = 4


def outputs_of(model: keras.Model, inputs: Any) -> Any:
    """What a model gives for a nest of inputs, with `training=False`; every value that it holds stays."""
    held = [*model.variables, *recurrent_states(model)]
    before = [variable.numpy() for variable in held]
    reset_recurrent_states(model)
    try:
        return model(tf.nest.map_structure(tf.convert_to_tensor, inputs, expand_composites=True), training=False)
    finally:
        for variable, value in zip(held, before, strict=True):
            variable.assign(value)


def write_probe(model: keras.Model, inputs: Sequence[Any], file: Path) -> dict[str, Any]:
    """Call the model with each nest of inputs and store both; the manifest's entry, without the file's name."""
    held = [*model.variables, *recurrent_states(model)]
    before = [variable.numpy() for variable in held]
    reset_recurrent_states(model)
    seeds = [variable.numpy().tolist() for variable in seed_variables(model)]
    arrays, batches = Arrays(), []
    try:
        for nest in inputs:
            given = tf.nest.map_structure(tf.convert_to_tensor, nest, expand_composites=True)
            seen = probe(model, given)
            entry = {"inputs": arrays.add(nest), "outputs": arrays.add(seen.outputs)}
            batches.append({**entry, "losses": seen.losses, "layers": seen.layers})
    finally:
        for variable, value in zip(held, before, strict=True):
            variable.assign(value)
    arrays.write(file)
    return {"seeds": seeds, "batches": batches}


def probe_inputs(spec: Any, batch: Any) -> Any:
    """What a role is called with: the part of a real batch that fits its spec, else seeded numbers of its shape.

    A step may feed a role what no batch holds (noise for a generator).
    """
    found = fitting_part(spec, batch)
    if found is not None:
        return found
    size = next((rows for leaf in tf.nest.flatten(batch) if (rows := _rows(leaf))), _UNKNOWN_SIZE)
    generator = np.random.default_rng(_SYNTHETIC_SEED)
    return tf.nest.map_structure(lambda leaf: _synthetic(leaf, size, generator), spec)


def _rows(leaf: Any) -> int | None:
    shape = tf.type_spec_from_value(_tensor(leaf)).shape
    return shape[0] if shape.rank else None


def _synthetic(spec: Any, size: int, generator: np.random.Generator) -> Any:
    if not isinstance(spec, tf.TensorSpec):
        return sample(spec, size=size)
    known = spec.shape.as_list() if spec.shape.rank is not None else [None]
    shape = [(size if index == 0 else _UNKNOWN_SIZE) if n is None else n for index, n in enumerate(known)]
    if spec.dtype.is_floating:
        return tf.cast(generator.standard_normal(shape), spec.dtype).numpy()
    if spec.dtype == tf.string:
        return np.full(shape, b"a", dtype=object)
    return generator.integers(0, 2, shape).astype(spec.dtype.as_numpy_dtype)
