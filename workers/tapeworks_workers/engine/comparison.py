"""How training memory and what was reloaded are compared; both sides look with these eyes.

`probe` calls a model and watches its layers; `difference` tells how far two nests of tensors are apart; `first_path`
where two configs part. The runner uses it as a module of its package, verifier A (`reload.py`) by path, where nothing
of Tapeworks can be imported: only the standard library, NumPy, Keras and TensorFlow are used here.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# ── what is seen ─────────────────────────────────────────────────────────────────────────────────


def digest(array: Any) -> str:
    """The sha-256 of an array's bytes (of its texts, for strings)."""
    array = np.asarray(array)
    data = repr(array.tolist()).encode() if array.dtype.hasobject else np.ascontiguousarray(array).tobytes()
    return hashlib.sha256(data).hexdigest()


def leaves(nest: Any) -> list[np.ndarray]:
    """The arrays of a nest in tf.nest's order, ragged and sparse tensors by their parts."""
    return [np.asarray(leaf) for leaf in tf.nest.flatten(nest, expand_composites=True)]


def seed_variables(model: keras.Model) -> list[Any]:
    """The states of seed generators: they are in `variables`, not in `weights`, and `.keras` leaves them out."""
    weights = {id(variable) for variable in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def recurrent_states(model: keras.Model) -> list[Any]:
    """The state variables of stateful RNNs: Keras lists them in no layer's `variables` and saves them in no file."""
    layers = (layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.RNN) and layer.stateful)
    return [variable for layer in layers for variable in tf.nest.flatten(layer.states) if variable is not None]


def reset_recurrent_states(model: keras.Model) -> None:
    """Stateful RNNs begin with zeros, as after a load."""
    for variable in recurrent_states(model):
        variable.assign(tf.zeros(variable.shape, variable.dtype))


@dataclass(frozen=True)
class Observed:
    """What a model gave for one probe batch."""

    outputs: Any
    losses: float
    """Sum of `model.losses`: weight regularization and what layers added."""
    layers: list[dict[str, Any]]
    """One entry for each layer call, innermost first: name, class, digest and norm of what it gave."""


def probe(model: keras.Model, inputs: Any) -> Observed:
    """Call the model eagerly with `training=False`, watching every layer."""
    with full_precision(), _watched_layers() as layers:
        outputs = model(inputs, training=False)
    return Observed(outputs, float(sum(float(loss) for loss in model.losses)), layers)


@contextmanager
def full_precision() -> Iterator[None]:
    """No TensorFloat-32: a GPU would round float32 products to 10 bits in some kernels and not in others."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


@contextmanager
def _watched_layers() -> Iterator[list[dict[str, Any]]]:
    seen: list[dict[str, Any]] = []
    call = keras.Operation.__call__  # where every layer's call passes; derived classes may hold Layer.__call__ itself

    def watched(self: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        outputs = call(self, *args, **kwargs)
        parts = tf.nest.flatten(outputs, expand_composites=True) if isinstance(self, keras.Layer) else []
        if parts and not any(tf.is_symbolic_tensor(part) or isinstance(part, keras.KerasTensor) for part in parts):
            arrays = [np.asarray(part) for part in parts if part is not None]
            norms = [float(np.linalg.norm(a.astype(np.float64))) for a in arrays if a.dtype.kind not in "OSU"]
            entry = {"layer": self.name, "class": type(self).__name__, "norm": sum(norms)}
            seen.append({**entry, "digest": hashlib.sha256("".join(map(digest, arrays)).encode()).hexdigest()})
        return outputs

    keras.Operation.__call__ = watched
    try:
        yield seen
    finally:
        keras.Operation.__call__ = call


def versions() -> dict[str, str]:
    """What computes in this process."""
    python = ".".join(map(str, sys.version_info[:3]))
    return {"python": python, "tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__}


def device() -> dict[str, Any]:
    """Where this process computes: equal bits are promised on equal devices only."""
    gpus = tf.config.list_physical_devices("GPU")
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus]
    return {"kind": "gpu" if gpus else "cpu", "names": names}


# ── how far it is apart ──────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Difference:
    """How far two nests are apart."""

    elements: int
    max_abs_difference: float
    scale: float
    """The largest absolute value expected, at least 1: float rounding grows with it."""
    bit_equal: bool

    def document(self) -> dict[str, Any]:
        """The difference as JSON."""
        values = {"elements": self.elements, "max_abs_difference": self.max_abs_difference}
        return {**values, "bit_equal": self.bit_equal}


def difference(expected: Any, actual: Any) -> Difference:
    """Compare two nests. Raises ValueError where their structures, shapes or dtypes differ."""
    pairs = list(zip(leaves(expected), leaves(actual), strict=True))
    elements, largest, scale, equal = 0, 0.0, 1.0, True
    for left, right in pairs:
        if left.shape != right.shape or left.dtype != right.dtype:
            raise ValueError(f"{left.dtype}{list(left.shape)} became {right.dtype}{list(right.shape)}")
        elements += left.size
        equal = equal and digest(left) == digest(right)
        if left.dtype.kind in "OSU":
            largest = max(largest, 0.0 if (left == right).all() else float("inf"))
        elif left.size:
            a, b = left.astype(np.float64), right.astype(np.float64)
            same = (a == b) | (np.isnan(a) & np.isnan(b))
            distances = np.where(same, 0.0, np.abs(np.where(same, 0.0, a) - np.where(same, 0.0, b)))
            largest = max(largest, float(np.where(np.isnan(distances), np.inf, distances).max()))
            scale = max(scale, float(np.abs(a[np.isfinite(a)]).max(initial=0.0)))
    return Difference(elements, largest, scale, equal)


def worst(found: Sequence[Difference]) -> Difference:
    return Difference(
        sum(item.elements for item in found),
        max(item.max_abs_difference for item in found),
        max(item.scale for item in found),
        all(item.bit_equal for item in found),
    )


def first_difference(stored: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> str | None:
    """The first layer call that gave something else: one that is clearly off, else one that differs in a bit."""
    pairs = list(zip(stored, found, strict=False))
    bits = [(a, b) for a, b in pairs if a["digest"] != b["digest"]]
    norms = [(float(a["norm"]), float(b["norm"])) for a, b in bits]  # "NaN" is a string in JSON
    off = [pair for pair, (a, b) in zip(bits, norms, strict=True) if not abs(a - b) <= 1e-4 * max(abs(a), 1e-12)]
    first = next((stored for stored, _ in [*off, *bits]), None)
    return f"{first['layer']!r} ({first['class']})" if first else None


# ── configs ──────────────────────────────────────────────────────────────────────────────────────


def comparable(config: Any, *, assets: bool = True) -> Any:
    """Without what may differ: where a registered class lives, sharing ids, shapes seen at build, an asset's size.

    `assets`: whether vocabularies may have been learned since; else their size is compared like any argument.
    """
    if isinstance(config, list):
        return [comparable(item, assets=assets) for item in config]
    if not isinstance(config, dict):
        return config
    config = _with_own_names(config)
    registered = isinstance(config.get("registered_name"), str) and ">" in config["registered_name"]
    dropped = {"shared_object_id", "build_config"}
    dropped |= {"vocabulary_size"} if assets else set()
    dropped |= {"module"} if registered else set()
    return {key: comparable(value, assets=assets) for key, value in config.items() if key not in dropped}


def _with_own_names(config: dict[str, Any]) -> dict[str, Any]:
    """A functional model's config; layers whose `get_config` leaves the name out, so that Keras invents another one
    each time, are named by their position."""
    layers = config.get("layers")
    if "input_layers" not in config or not isinstance(layers, list):
        return config
    named = {
        layer.get("name"): f"#{index}"
        for index, layer in enumerate(layers)
        if isinstance(layer, dict) and isinstance(layer.get("config"), dict) and "name" not in layer["config"]
    }
    if not named:
        return config

    def renamed(value: Any) -> Any:
        if isinstance(value, list):
            if len(value) == 3 and isinstance(value[0], str) and value[0] in named:
                return [named[value[0]], *value[1:]]  # a history or an end: layer, node, tensor
            return [renamed(item) for item in value]
        if isinstance(value, dict):
            return {key: renamed(item) for key, item in value.items()}
        return value

    ends: dict[str, Any] = {key: renamed(config[key]) for key in ("input_layers", "output_layers") if key in config}
    inner = [
        {**layer, "name": named.get(layer["name"], layer["name"]), "inbound_nodes": renamed(layer["inbound_nodes"])}
        for layer in layers
    ]
    return {**config, "layers": inner, **ends}


def first_path(left: Any, right: Any, at: str = "", *, of_keras: bool = False) -> str | None:
    """The first place where two configs differ.

    `of_keras`: they are one of Keras' own objects'. Some of those leave out arguments that they were given (Huber its
    delta), which the stored config has beside: its constructor took it, though it does not say so again.
    """
    if isinstance(left, dict) and isinstance(right, dict):
        inner = str(left.get("module", "")).partition(".")[0] == "keras"
        for key in [*left, *(k for k in right if k not in left)]:
            if of_keras and key not in right:
                continue
            if key not in left or key not in right:
                return f"{at}/{key}"
            where = first_path(left[key], right[key], f"{at}/{key}", of_keras=inner and key == "config")
            if where:
                return where
        return None
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        return next(
            (w for i, (a, b) in enumerate(zip(left, right, strict=True)) if (w := first_path(a, b, f"{at}/{i}"))), None
        )
    return None if left == right else f"{at} ({short(repr(left), 80)} became {short(repr(right), 80)})"


def why_not_rebuilt(error: Exception, what: str) -> str:
    """What Keras' error says: the innermost class that failed, and the argument its config lacks."""
    text = str(error)
    classes = re.findall(r"<class '([^']+)'> could not be deserialized", text)
    who = f"the class {classes[-1].rpartition('.')[2]}" if classes else what
    required = r"missing (?:\d+ required (?:positional|keyword-only) arguments?|a required (?:keyword-only )?argument)"
    missing = re.search(required + r": (.+?)(?:\n|$)", text)
    if missing:
        return f"{who} cannot be rebuilt: its config lacks the argument {missing.group(1).strip()}"
    return f"{who} cannot be rebuilt from its config: {type(error).__name__}: {short(text)}"


def short(text: str, limit: int = 500) -> str:
    text = " ".join(text.split())
    tail = text.rpartition("Exception encountered: ")[2]
    return tail if len(tail) <= limit else tail[:limit] + "…"
