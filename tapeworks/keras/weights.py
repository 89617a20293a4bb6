"""Weights of a model of this process, to a job and back.

`initial_bundle(model)` is a bundle with the training state alone: the job starts from the weights that the model has,
as `fit` does. `assign(model, trained)` copies what a reloaded model learned.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tapeworks.errors import TapeworksError
from tapeworks.keras.fit_data import npz
from tapeworks.keras.models import learned_in_config

_ROLE = "model"


def initial_bundle(model: Any) -> bytes | None:
    """A `.tar.gz` for `initial_state`; None where the model has no weights. Equal weights give equal bytes."""
    import numpy as np

    skipped = {id(weight) for layer in _layers(model) if learned_in_config(layer) for weight in layer.weights}
    arrays: dict[str, Any] = {}
    dtypes: dict[str, str] = {}
    for weight in model.weights:
        if id(weight) not in skipped:
            value = np.asarray(weight.numpy())
            name = f"models/{_ROLE}/{len(arrays)}/{weight.path}"
            dtypes[name] = value.dtype.name
            plain = value.dtype.kind in "biuf" and value.dtype.isbuiltin == 1
            arrays[name] = value if plain else value.view(f"u{value.dtype.itemsize}")
    if not arrays:
        return None
    files = {
        "manifest.json": json.dumps({"format": 1, "models": {}, "files": {}}).encode(),
        "training_state/state.json": json.dumps({"counters": {}, "dtypes": dtypes}).encode(),
        "training_state/values.npz": npz(arrays),
    }
    written = io.BytesIO()
    with gzip.GzipFile(fileobj=written, mode="wb", mtime=0, compresslevel=1) as compressed:
        with tarfile.open(fileobj=compressed, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size, info.mode = len(content), 0o644
                tar.addfile(info, io.BytesIO(content))
    return written.getvalue()


def assign(model: Any, trained: Any) -> None:
    """Give `model` the weights, and the optimizer's state, of the same model reloaded. Raises TapeworksError."""
    for mine, theirs in zip(_layers(model), _layers(trained), strict=True):
        if learned_in_config(mine):
            continue  # what it learned is an argument of the trained one, and does not change in training
        if not _copied(_variables(theirs), _variables(mine)):
            raise TapeworksError(f"the layer {mine.name!r} came back with other weights; load the bundle instead")
    _assign_optimizer(model, trained)


def _assign_optimizer(model: Any, trained: Any) -> None:
    """The optimizer's state, where the reloaded model has the same one: `fit` here can continue the training."""
    mine, theirs = getattr(model, "optimizer", None), getattr(trained, "optimizer", None)
    if mine is None or theirs is None or type(mine) is not type(theirs):
        return
    mine.build(model.trainable_variables)
    _copied(theirs.variables, mine.variables)


def _copied(values: Sequence[Any], variables: Sequence[Any]) -> bool:
    """Assign values to variables; False, and nothing is changed, if their shapes differ."""
    if [tuple(one.shape) for one in values] != [tuple(one.shape) for one in variables]:
        return False
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return True


def _layers(model: Any) -> list[Any]:
    return list(model._flatten_layers())


def _variables(layer: Any) -> list[Any]:
    """The weights that the layer itself holds, without its inner layers'."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


@contextmanager
def best_weights(model: Any, values: Path) -> Iterator[None]:
    """Inside the block the model has the weights of a checkpoint's `values.npz`; afterwards its own again."""
    import numpy as np

    own = model.get_weights()
    variables = {weight.path: weight for weight in model.weights}
    try:
        with np.load(values, allow_pickle=False) as archive:
            for name in archive.files:
                path = name.removeprefix(f"models/{_ROLE}/").partition("/")[2]
                if name.startswith(f"models/{_ROLE}/") and path in variables:
                    variables[path].assign(archive[name])
        yield
    finally:
        model.set_weights(own)
