"""What layers know outside their variables: a vocabulary, the boundaries of bins.

A checkpoint holds it as arrays `outside/ROLE/LAYER/NAME`; it is put back before a model is built, since the shape of
what a lookup gives follows from its vocabulary.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tapeworks_workers.engine.models.layer_paths import layers_by_path

PREFIX = "outside/"
_ASSETS = "assets/"
_BOUNDARIES = "bin_boundaries"


def of_models(models: Mapping[str, keras.Model]) -> dict[str, np.ndarray]:
    """Every such value of a job by its name in a checkpoint."""
    return {
        f"{PREFIX}{role}/{path}/{name}": value
        for role, model in models.items()
        for path, layer in layers_by_path(model)
        for name, value in read(layer).items()
    }


def of_layer(values: Mapping[str, np.ndarray], role: str, path: str) -> dict[str, np.ndarray]:
    """What a checkpoint holds for one layer; {} for nothing."""
    prefix = f"{PREFIX}{role}/{path}/"
    found = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    return {name: value for name, value in found.items() if name == _BOUNDARIES or name.startswith(_ASSETS)}


def layers_of(values: Mapping[str, np.ndarray], role: str) -> list[str]:
    """Paths of the layers of a role of which a checkpoint holds something."""
    prefix = f"{PREFIX}{role}/"
    names = [name.removeprefix(prefix) for name in values if name.startswith(prefix)]
    return list(dict.fromkeys(name.removesuffix(f"/{_BOUNDARIES}").partition(f"/{_ASSETS}")[0] for name in names))


def kept_by(layer: Any) -> bool:
    """Whether a layer keeps what it knows outside its variables."""
    return isinstance(layer, keras.layers.Discretization) or hasattr(layer, "save_assets")


def read(layer: Any) -> dict[str, np.ndarray]:
    """A layer's values outside its variables."""
    if not kept_by(layer):
        return {}
    if isinstance(layer, keras.layers.Discretization):
        # Given in the config, they come back with it.
        learned = layer.num_bins is not None and layer.bin_boundaries is not None
        return {_BOUNDARIES: np.asarray(layer.bin_boundaries, np.float64)} if learned else {}
    with tempfile.TemporaryDirectory() as folder:
        layer.save_assets(folder)
        files = sorted(file for file in Path(folder).rglob("*") if file.is_file())
        return {
            _ASSETS + file.relative_to(folder).as_posix(): np.frombuffer(file.read_bytes(), np.uint8) for file in files
        }


def write(layer: Any, values: Mapping[str, np.ndarray]) -> None:
    """Put back what `read` gave."""
    if _BOUNDARIES in values:
        layer.bin_boundaries = values[_BOUNDARIES].tolist()
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, value in values.items():
            file = Path(folder) / name.removeprefix(_ASSETS)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(value.tobytes())
        layer.load_assets(folder)


def finalize(model: keras.Model) -> None:
    """Let layers compute with variables that were assigned: Normalization keeps constants made from its own."""
    for _, layer in layers_by_path(model):
        # A lookup would make its vocabulary anew from the counts of its adapt, which are gone.
        if hasattr(layer, "finalize_state") and not kept_by(layer):
            layer.finalize_state()
