"""Verifier A: a bundle's models come back in a process that knows nothing of Tapeworks.

`main(bundle)` runs in a fork of the base zygote (by path), or as `python reload.py BUNDLE`. For each exported model
it loads the `.keras` file with the bundle's own `load.py` and components, compares weights, optimizer, config and the
outputs for the stored probe batches with what training memory had, and calls the SavedModel with plain TensorFlow.
It returns a report, or `{"failure": {"code", "message", "hint"}}`:

- `reload_mismatch`: the model that came back is not the trained one; the message names the first layer that differs.
- `not_serializable`: a class could not be rebuilt from its config; the message names the argument.
- `component_error`: the bundle's components cannot be imported.

The first half of this file is what both sides share: the runner writes probes with the same eyes (`probe`,
`Observed`) with which this process reads them. Only the standard library, NumPy, Keras and TensorFlow are imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import sys
import traceback
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

BARRED = "tapeworks"


class Mismatch(Exception):
    """The bundle is not what was trained; `code` is one of Tapeworks' failure codes."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.failure = {"code": code, "message": message, "hint": hint}


# ── what the runner and this process share ───────────────────────────────────────────────────────


def digest(array: Any) -> str:
    """sha-256 of an array's bytes (of its texts, for strings)."""
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
    with _watched_layers() as layers:
        outputs = model(inputs, training=False)
    return Observed(outputs, float(sum(float(loss) for loss in model.losses)), layers)


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


# ── the verification, in order ───────────────────────────────────────────────────────────────────


def main(bundle: str) -> dict[str, Any]:
    """Verify the bundle in this folder: a report, or `{"failure": {code, message, hint}}`."""
    folder = Path(bundle)
    if any(name.startswith(BARRED) for name in sys.modules):
        raise RuntimeError("this process has imported Tapeworks: a reload here would prove nothing")
    sys.meta_path.insert(0, _Barrier())
    try:
        return _verify(folder, json.loads((folder / "manifest.json").read_text()))
    except Mismatch as mismatch:
        return {"failure": mismatch.failure}


class _Barrier:
    """Refuses to import Tapeworks: what works here works where it was never installed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Part of Python's import protocol."""
        if name.partition(".")[0].startswith(BARRED):
            raise ModuleNotFoundError(f"{name} is barred here: a bundle must load without Tapeworks", name=name)


def _verify(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    before = set(sys.modules)
    loader = _bundle_loader(folder)
    tolerance = float(manifest["tolerance"])
    models: dict[str, Any] = {}
    for role, entry in manifest["models"].items():
        stored = _read_probe(folder, loader, entry["probe"])
        models[role] = {}
        if entry["keras"]:
            models[role]["keras"] = _verify_keras(folder, loader, role, entry, stored, tolerance)
        if entry["saved_model"]:
            models[role]["saved_model"] = _verify_saved_model(folder, role, entry, stored, tolerance)
    components = folder.resolve() / "components"
    imported = {name: getattr(sys.modules[name], "__file__", None) or "" for name in set(sys.modules) - before}
    return {
        "verifier": "reload",
        "models": models,
        "tolerance": tolerance,
        "versions": versions(),
        "device": device(),
        "tapeworks_modules": sorted(name for name in sys.modules if name.startswith(BARRED)),
        "bundle_modules": sorted(name for name, file in imported.items() if file.startswith(str(components))),
    }


def versions() -> dict[str, str]:
    """What computes in this process."""
    python = ".".join(map(str, sys.version_info[:3]))
    return {"python": python, "tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__}


def device() -> dict[str, Any]:
    """Where this process computes: equal bits are promised on equal devices only."""
    gpus = tf.config.list_physical_devices("GPU")
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus]
    return {"kind": "gpu" if gpus else "cpu", "names": names}


def _bundle_loader(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bundle_load", folder / "load.py")
    if spec is None or spec.loader is None:
        raise Mismatch("reload_mismatch", "the bundle has no load.py", "Export the job again.")
    module = importlib.util.module_from_spec(spec)
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise Mismatch(
            "component_error",
            f"the components in the bundle cannot be imported without Tapeworks: {type(error).__name__}: {error}",
            "A component's file may import the standard library, numpy, keras, tensorflow, the names of `tapeworks` "
            "that authors use, and modules of its own package.",
        ) from error
    finally:
        sys.dont_write_bytecode = written
    return module


def _read_probe(folder: Path, loader: ModuleType, entry: dict[str, Any]) -> list[tuple[Any, Any, dict[str, Any]]]:
    with np.load(folder / entry["file"], allow_pickle=False) as file:
        arrays = dict(file)
    return [(loader.nest(b["inputs"], arrays), loader.nest(b["outputs"], arrays), b) for b in entry["batches"]]


# ── .keras ───────────────────────────────────────────────────────────────────────────────────────


def _verify_keras(
    folder: Path, loader: ModuleType, role: str, entry: dict[str, Any], stored: Sequence[Any], tolerance: float
) -> dict[str, Any]:
    model, complaints = _load(folder, loader, role)
    optimizer = getattr(model, "optimizer", None)
    _same_variables(role, "weights", entry["weights"], model.weights, complaints)
    _same_variables(role, "optimizer", entry["optimizer_weights"], optimizer.variables if optimizer else [], complaints)
    if complaints:
        raise Mismatch("reload_mismatch", f"Keras warned while loading {role!r}: {complaints[0]}", _STATE_HINT)
    _same_config(folder / entry["keras"], role, model)
    for variable, value in zip(seed_variables(model), entry["probe"]["seeds"], strict=True):
        variable.assign(value)
    found = []
    for inputs, expected, batch in stored:
        observed = probe(model, inputs)
        where = _first_difference(batch["layers"], observed.layers)
        found.append(_close(role, ".keras", expected, observed.outputs, tolerance, entry, where))
        if abs(observed.losses - batch["losses"]) > tolerance * max(1.0, abs(batch["losses"])):
            message = f"the regularization of {role!r} was {batch['losses']} and is {observed.losses} after the reload"
            raise Mismatch("reload_mismatch", message, _STATE_HINT)
    variables = {"weights": len(entry["weights"]), "optimizer_variables": len(entry["optimizer_weights"])}
    return {**variables, "config": "equal", "batches": len(found), "outputs": _worst(found).document()}


_STATE_HINT = "Keep what a layer learns in Keras variables (add_weight), and every argument of __init__ in its config."


def _load(folder: Path, loader: ModuleType, role: str) -> tuple[keras.Model, list[str]]:
    """The model, and what Keras warned of: it warns where weights or the build were lost, and goes on."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = loader.load(folder, roles=[role])[role]
        except Exception as error:
            raise _cannot_load(role, error) from error
    complaints = [
        " ".join(str(w.message).split())
        for w in caught
        if issubclass(w.category, UserWarning)
        and not issubclass(w.category, DeprecationWarning)
        and "keras" in Path(w.filename).parts
        and re.search(r"weight|variable|buil[dt]|state|load", str(w.message), re.IGNORECASE)
    ]
    return model, complaints


def _cannot_load(role: str, error: Exception) -> Mismatch:
    text = str(error)
    if re.search(r"could not be loaded|axes don't match|shape mismatch|expected \d+ variables", text):
        return Mismatch("reload_mismatch", f"the weights of {role!r} do not fit: {_short(text)}", _STATE_HINT)
    return Mismatch("not_serializable", why_not_rebuilt(error, repr(role)), _CONFIG_HINT)


_CONFIG_HINT = "Give every argument of __init__ a place in get_config(), or leave get_config out and let it be derived."


def why_not_rebuilt(error: Exception, what: str) -> str:
    """What Keras' error says: the innermost class that failed, and the argument its config lacks."""
    text = str(error)
    classes = re.findall(r"<class '([^']+)'> could not be deserialized", text)
    who = f"the class {classes[-1].rpartition('.')[2]}" if classes else what
    required = r"missing (?:\d+ required (?:positional|keyword-only) arguments?|a required (?:keyword-only )?argument)"
    missing = re.search(required + r": (.+?)(?:\n|$)", text)
    if missing:
        return f"{who} cannot be rebuilt: its config lacks the argument {missing.group(1).strip()}"
    return f"{who} cannot be rebuilt from its config: {type(error).__name__}: {_short(text)}"


def _short(text: str, limit: int = 500) -> str:
    text = " ".join(text.split())
    tail = text.rpartition("Exception encountered: ")[2]
    return tail if len(tail) <= limit else tail[:limit] + "…"


def _same_variables(
    role: str, what: str, stored: Sequence[dict[str, Any]], found: Sequence[Any], complaints: Sequence[str]
) -> None:
    """By position: names are not stable (auto-numbered layers), order is."""
    hint = _STATE_HINT if what == "weights" else "An optimizer must own exactly the model's trainable variables."
    for entry, variable in zip(stored, found, strict=False):
        if digest(variable.numpy()) != entry["sha256"]:
            layer = entry["path"].rpartition("/")[0] or entry["path"]
            note = f" (Keras: {_short(complaints[0], 200)})" if complaints else ""
            message = f"{role!r}: the layer {layer!r} came back with other {what}, first {entry['path']!r}{note}"
            raise Mismatch("reload_mismatch", message, hint)
    if len(stored) != len(found):
        message = f"{role!r} had {len(stored)} {what} variables, {len(found)} came back"
        raise Mismatch("reload_mismatch", message, hint)


def _same_config(file: Path, role: str, model: keras.Model) -> None:
    """The config in the file, that of the loaded model, and that of a model rebuilt from it are one."""
    with zipfile.ZipFile(file) as archive:
        saved = _comparable(json.loads(archive.read("config.json")))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    for other in (model, again):
        found = _comparable(json.loads(json.dumps(keras.saving.serialize_keras_object(other))))
        where = _first_path(saved, found)
        if where:
            message = f"{role!r}: the config does not come back equal at {where}"
            hint = "from_config(get_config()) must give an equal object: keep arguments as they were given."
            raise Mismatch("not_serializable", message, hint)


def _comparable(config: Any) -> Any:
    """Without what may differ: where a registered class lives, sharing ids, shapes seen at build."""
    if isinstance(config, list):
        return [_comparable(item) for item in config]
    if not isinstance(config, dict):
        return config
    registered = isinstance(config.get("registered_name"), str) and ">" in config["registered_name"]
    dropped = {"shared_object_id", "build_config", *(["module"] if registered else [])}
    return {key: _comparable(value) for key, value in config.items() if key not in dropped}


def _first_path(left: Any, right: Any, at: str = "") -> str | None:
    if isinstance(left, dict) and isinstance(right, dict):
        for key in [*left, *(k for k in right if k not in left)]:
            if key not in left or key not in right:
                return f"{at}/{key}"
            where = _first_path(left[key], right[key], f"{at}/{key}")
            if where:
                return where
        return None
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        return next(
            (w for i, (a, b) in enumerate(zip(left, right, strict=True)) if (w := _first_path(a, b, f"{at}/{i}"))), None
        )
    return None if left == right else f"{at} ({_short(repr(left), 80)} became {_short(repr(right), 80)})"


def _first_difference(stored: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> str | None:
    """The first layer call that gave something else: one that is clearly off, else one that differs in a bit."""
    pairs = list(zip(stored, found, strict=False))
    bits = [(a, b) for a, b in pairs if a["digest"] != b["digest"]]
    off = [(a, b) for a, b in bits if not abs(a["norm"] - b["norm"]) <= 1e-4 * max(abs(a["norm"]), 1e-12)]
    first = next((stored for stored, _ in [*off, *bits]), None)
    return f"{first['layer']!r} ({first['class']})" if first else None


def _close(
    role: str, form: str, expected: Any, actual: Any, tolerance: float, entry: dict[str, Any], where: str | None
) -> Difference:
    """Within `tolerance`, for outputs beyond 1 relative to the largest; half precision is given its own rounding."""
    first = f"; the first layer that differs is {where}" if where else ""
    try:
        found = difference(expected, actual)
    except ValueError as error:
        raise Mismatch(
            "reload_mismatch", f"{form} of {role!r}: the outputs changed: {error}{first}", _STATE_HINT
        ) from error
    rounding = {"float16": 2.0**-8, "bfloat16": 2.0**-5}.get(entry["compute_dtype"], 0.0)
    if not found.max_abs_difference <= max(tolerance, rounding) * found.scale:
        message = (
            f"{form} of {role!r}: outputs differ by up to {found.max_abs_difference:.3g} "
            f"from the trained model's (tolerance {tolerance:g}){first}"
        )
        raise Mismatch("reload_mismatch", message, _STATE_HINT)
    return found


def _worst(found: Sequence[Difference]) -> Difference:
    return Difference(
        sum(item.elements for item in found),
        max(item.max_abs_difference for item in found),
        max(item.scale for item in found),
        all(item.bit_equal for item in found),
    )


# ── SavedModel ───────────────────────────────────────────────────────────────────────────────────


def _verify_saved_model(
    folder: Path, role: str, entry: dict[str, Any], stored: Sequence[Any], tolerance: float
) -> dict[str, Any]:
    loaded = tf.saved_model.load(str(folder / entry["saved_model"]))
    serve = loaded.signatures["serving_default"]
    dense = all(isinstance(leaf, tf.Tensor) for inputs, *_ in stored for leaf in tf.nest.flatten(inputs))
    found = []
    for inputs, expected, _ in stored:
        if dense:
            outputs = serve(**dict(zip(entry["serving"]["inputs"], tf.nest.flatten(inputs), strict=True)))
            actual: Any = [outputs[name] for name in entry["serving"]["outputs"]]
        else:  # a signature takes a ragged tensor only in parts: the function beside it takes it whole
            actual = loaded.serving_default(inputs)
        found.append(
            _close(role, "SavedModel", tf.nest.flatten(expected), tf.nest.flatten(actual), tolerance, entry, None)
        )
    signatures = sorted(loaded.signatures)
    return {"signatures": signatures, "batches": len(found), "outputs": _worst(found).document()}


if __name__ == "__main__":
    try:
        answer = main(sys.argv[1])
    except Exception as error:
        traceback.print_exc()
        answer = {"failure": {"code": "internal", "message": f"{type(error).__name__}: {error}", "hint": ""}}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.exit(1 if "failure" in answer else 0)
