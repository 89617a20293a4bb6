"""Rebuilds components where Tapeworks cannot be imported, run by path: python -I alone.py FOLDER.

The folder is what `rehearsal.py` wrote: objects.json, values.npz, components/ and load.py, as in a bundle. Prints a
JSON object: component → what is wrong with it, or null. Uses the standard library, NumPy, Keras and TensorFlow only.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

BARRIER = Path(__file__).parents[2] / "processes" / "import_barrier.py"


def observe(kind: str, instance: Any, inputs: Sequence[Any]) -> Any:
    """What an object of one of Keras' kinds gives for its inputs; None where only its config can be compared."""
    if kind in ("layer", "model"):
        return instance(inputs[0], training=False)
    if kind == "loss":
        return instance(*inputs)
    if kind == "metric":
        instance.reset_state()
        instance.update_state(*inputs)
        return instance.result()
    return instance(inputs[0]) if kind in ("regularizer", "constraint", "schedule") else None


def main(folder: Path) -> dict[str, str | None]:
    """Component → what is wrong with it after the reload, or None."""
    _load_module("import_barrier", BARRIER).bar()
    document = json.loads((folder / "objects.json").read_text(encoding="utf-8"))
    keras.config.set_floatx(document["floatx"])
    loader = _load_module("bundle_load", folder / "load.py")
    with np.load(folder / "values.npz", allow_pickle=False) as file:
        arrays = dict(file)
    try:
        loader.components(folder, document)
    except Exception as error:
        what = f"its file cannot be imported without Tapeworks: {type(error).__name__}: {error}"
        return {entry["component"]: what for entry in document["objects"]}
    return {entry["component"]: _compared(entry, loader, arrays) for entry in document["objects"]}


def _compared(entry: dict[str, Any], loader: ModuleType, arrays: dict[str, Any]) -> str | None:
    try:
        again = keras.saving.deserialize_keras_object(entry["config"])
        weights = loader.nest(entry["weights"], arrays)
        if weights is not None:
            if len(weights) != len(again.weights):
                return f"it had {len(weights)} weights, and has {len(again.weights)} after a reload in another process"
            again.set_weights([value.numpy() for value in weights])
        found = observe(entry["kind"], again, loader.nest(entry["inputs"], arrays))
    except Exception as error:
        return f"it cannot be rebuilt in another process: {type(error).__name__}: {' '.join(str(error).split())[:500]}"
    expected = loader.nest(entry["outputs"], arrays)
    for a, b in zip(*(tf.nest.flatten(nest, expand_composites=True) for nest in (expected, found)), strict=True):
        if not np.array_equal(a, b):
            return "it returns other values in another process: it has state that is neither in its config nor a weight"
    return None


def _load_module(name: str, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]))) + "\n")
