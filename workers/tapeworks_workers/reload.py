"""Verifier A: a bundle's models come back in a process that knows nothing of Tapeworks.

`main(bundle)` runs in a fork of the base zygote (by path), or as `python reload.py BUNDLE`. Each exported model is
loaded in every documented way, each compared with what training memory had for the stored probe batches:

- `load.load()`: weights, optimizer, config and outputs; outputs again with the process's own precision, whatever the
  job's was;
- `import load` and `keras.models.load_model`, in a process of Keras' defaults: the dtype policy of each layer, weights,
  optimizer and outputs;
- `tf.saved_model.load`: outputs of each signature.

`certify.py` covers `tapeworks.load`, which is barred here. `main` returns a report, or
`{"failure": {"code", "message", "hint"}}`:

- `reload_mismatch`: the model that came back is not the trained one; the message names the first layer that differs.
- `not_serializable`: a class could not be rebuilt from its config; the message names the argument.
- `component_error`: the bundle's components cannot be imported.

Only the standard library, NumPy, Keras and TensorFlow are imported, and `engine/comparison.py`, by path: the eyes with
which the runner looked at the model that it trained.
"""

from __future__ import annotations

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
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

BARRED = "tapeworks"


def _from_file(name: str, file: Path) -> ModuleType:
    """Import a file under a bare name, leaving no byte code beside it."""
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = written
    return module


if TYPE_CHECKING:
    from tapeworks_workers.engine import comparison
else:
    comparison = _from_file("comparison", Path(__file__).with_name("engine") / "comparison.py")


class Mismatch(Exception):
    """The bundle is not what was trained; `code` is one of Tapeworks' failure codes."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.failure = {"code": code, "message": message, "hint": hint}


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
            report, facts = _verify_keras(folder, loader, manifest, role, stored)
            models[role]["keras"] = report
            models[role]["load_model"] = _verify_load_model(folder, role, entry, stored, tolerance, facts)
        if entry["saved_model"]:
            models[role]["saved_model"] = _verify_saved_model(folder, role, entry, stored, tolerance)
    components = folder.resolve() / "components"
    imported = {name: getattr(sys.modules[name], "__file__", None) or "" for name in set(sys.modules) - before}
    return {
        "verifier": "reload",
        "models": models,
        "tolerance": tolerance,
        "versions": comparison.versions(),
        "device": comparison.device(),
        "tapeworks_modules": sorted(name for name in sys.modules if name.startswith(BARRED)),
        "bundle_modules": sorted(name for name, file in imported.items() if file.startswith(str(components))),
    }


def _bundle_loader(folder: Path) -> ModuleType:
    try:
        return _from_file("bundle_load", folder / "load.py")
    except Exception as error:
        if isinstance(error, ValueError) and "is damaged" in str(error):
            raise Mismatch(
                "reload_mismatch", f"the bundle changed on disk: {error}", "Export the job again."
            ) from error
        raise Mismatch(
            "component_error",
            f"the components in the bundle cannot be imported without Tapeworks: {type(error).__name__}: {error}",
            "A component's file may import the standard library, numpy, keras, tensorflow, the names of `tapeworks` "
            "that authors use, and modules of its own package.",
        ) from error


def _read_probe(folder: Path, loader: ModuleType, entry: dict[str, Any]) -> list[tuple[Any, Any, dict[str, Any]]]:
    with np.load(folder / entry["file"], allow_pickle=False) as file:
        arrays = dict(file)
    return [(loader.nest(b["inputs"], arrays), loader.nest(b["outputs"], arrays), b) for b in entry["batches"]]


# ── .keras ───────────────────────────────────────────────────────────────────────────────────────


def _verify_keras(
    folder: Path, loader: ModuleType, manifest: dict[str, Any], role: str, stored: Sequence[Any]
) -> tuple[dict[str, Any], _Facts]:
    """`load.load()`: its report, and what the same file must give when it is loaded in another way."""
    entry, tolerance = manifest["models"][role], float(manifest["tolerance"])
    with _precision_of(manifest):
        model, complaints = _load(folder, loader, role)
        optimizer = getattr(model, "optimizer", None)
        _same_variables(role, "weights", entry["weights"], model.weights, complaints)
        of_optimizer = optimizer.variables if optimizer else []
        _same_variables(role, "optimizer", entry["optimizer_weights"], of_optimizer, complaints)
        if complaints:
            raise Mismatch("reload_mismatch", f"Keras warned while loading {role!r}: {complaints[0]}", _STATE_HINT)
        _same_config(folder / entry["keras"], role, model, compiled=entry["compiled"])
        found = _same_outputs(role, ".keras", model, entry, stored, tolerance)
    found += _same_outputs(role, "load.load() in a process of other precision", model, entry, stored, tolerance)
    variables = {"weights": len(entry["weights"]), "optimizer_variables": len(entry["optimizer_weights"])}
    outputs = comparison.worst(found).document()
    return {**variables, "config": "equal", "batches": len(stored), "outputs": outputs}, _facts(model)


@contextmanager
def _precision_of(manifest: dict[str, Any]) -> Iterator[None]:
    """The global precision of the job: optimizers rebuilt here round as in training, a Sequential takes its policy."""
    before, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(manifest["floatx"])
    keras.config.set_dtype_policy(manifest["dtype_policy"])
    try:
        yield
    finally:
        keras.config.set_floatx(before)
        keras.config.set_dtype_policy(policy)


def _same_outputs(
    role: str, form: str, model: keras.Model, entry: dict[str, Any], stored: Sequence[Any], tolerance: float
) -> list[comparison.Difference]:
    """Call the model with each probe, from the states that random layers and stateful RNNs had in training memory."""
    for variable, value in zip(comparison.seed_variables(model), entry["probe"]["seeds"], strict=True):
        variable.assign(value)
    comparison.reset_recurrent_states(model)
    found = []
    for inputs, expected, batch in stored:
        observed = comparison.probe(model, inputs)
        where = comparison.first_difference(batch["layers"], observed.layers)
        found.append(_close(role, form, expected, observed.outputs, tolerance, entry, where))
        losses = float(batch["losses"])  # "NaN" is a string in JSON
        if abs(observed.losses - losses) > tolerance * max(1.0, abs(losses)):
            message = f"the regularization of {role!r} was {losses} and is {observed.losses} after the reload"
            raise Mismatch("reload_mismatch", message, _STATE_HINT)
    return found


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
        and not re.search(_HARMLESS, str(w.message))
    ]
    return model, complaints


_HARMLESS = r"`build\(\)` was called on layer .* does not have a `build\(\)` method|`compile\(\)` was not called"
"""Of a layer in one of Keras' wrappers, and of a model with a `compile` of its own: what they lose is compared."""


def _cannot_load(role: str, error: Exception) -> Mismatch:
    text = str(error)
    if re.search(r"could not be loaded|axes don't match|shape mismatch|expected \d+ variables", text):
        return Mismatch("reload_mismatch", f"the weights of {role!r} do not fit: {comparison.short(text)}", _STATE_HINT)
    return Mismatch("not_serializable", comparison.why_not_rebuilt(error, repr(role)), _CONFIG_HINT)


_CONFIG_HINT = "Give every argument of __init__ a place in get_config(), or leave get_config out and let it be derived."


def _same_variables(
    role: str, what: str, stored: Sequence[dict[str, Any]], found: Sequence[Any], complaints: Sequence[str]
) -> None:
    """By position: names are not stable (auto-numbered layers), order is."""
    hint = _STATE_HINT if what == "weights" else "An optimizer must own exactly the model's trainable variables."
    for entry, variable in zip(stored, found, strict=False):
        if comparison.digest(variable.numpy()) != entry["sha256"]:
            layer = entry["path"].rpartition("/")[0] or entry["path"]
            note = f" (Keras: {comparison.short(complaints[0], 200)})" if complaints else ""
            message = f"{role!r}: the layer {layer!r} came back with other {what}, first {entry['path']!r}{note}"
            raise Mismatch("reload_mismatch", message, hint)
    if len(stored) != len(found):
        first = f": {stored[len(found)]['path']!r} is missing" if len(found) < len(stored) else ""
        message = f"{role!r} had {len(stored)} {what} variables, {len(found)} came back{first}"
        raise Mismatch("reload_mismatch", message, hint)


def _same_config(file: Path, role: str, model: keras.Model, *, compiled: bool) -> None:
    """The config in the file, that of the loaded model, and that of a model rebuilt from it are one.

    `compiled`: by the job. What a model compiles itself with in `__init__` is made anew each time.
    """
    with zipfile.ZipFile(file) as archive:
        saved = comparison.comparable(json.loads(archive.read("config.json")))
    ignored = () if compiled else ("compile_config",)
    try:
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    except Exception as error:
        raise Mismatch("not_serializable", comparison.why_not_rebuilt(error, repr(role)), _CONFIG_HINT) from error
    for other in (model, again):
        found = comparison.comparable(json.loads(json.dumps(keras.saving.serialize_keras_object(other))))
        left, right = ({k: v for k, v in one.items() if k not in ignored} for one in (saved, found))
        where = comparison.first_path(left, right)
        if where:
            message = f"{role!r}: the config does not come back equal at {where}"
            hint = "from_config(get_config()) must give an equal object: keep arguments as they were given."
            raise Mismatch("not_serializable", message, hint)


def _close(
    role: str, form: str, expected: Any, actual: Any, tolerance: float, entry: dict[str, Any], where: str | None
) -> comparison.Difference:
    """Within `tolerance`, for outputs beyond 1 relative to the largest; half precision is given its own rounding."""
    first = f"; the first layer that differs is {where}" if where else ""
    try:
        found = comparison.difference(expected, actual)
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


# ── import load, keras.models.load_model ─────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Facts:
    """What is compared between two loads of one file without holding both models."""

    policies: list[tuple[str, str, str]]
    """Path, class and dtype policy of each layer."""
    optimizer: list[set[str]]
    """Digests of each optimizer variable, in its own dtype and in float32: Keras keeps the rate in floatx."""


def _facts(model: keras.Model) -> _Facts:
    # No config keeps the policy that these have themselves, and none of their values depends on it.
    # TextVectorization makes its lookup under the global one.
    plain: set[Any] = {keras.Sequential, keras.src.models.Functional, keras.layers.InputLayer}
    plain |= {keras.layers.StringLookup, keras.layers.IntegerLookup}
    layers = [layer for layer in model._flatten_layers() if type(layer) not in plain]
    policies = [(layer.path or layer.name, type(layer).__name__, layer.dtype_policy.name) for layer in layers]
    optimizer = getattr(model, "optimizer", None)
    values = [variable.numpy() for variable in optimizer.variables] if optimizer else []
    wide = [value.astype(np.float32) if value.dtype == np.float64 else value for value in values]
    digests = [{comparison.digest(a), comparison.digest(b)} for a, b in zip(values, wide, strict=True)]
    return _Facts(policies, digests)


def _verify_load_model(
    folder: Path, role: str, entry: dict[str, Any], stored: Sequence[Any], tolerance: float, expected: _Facts
) -> dict[str, Any]:
    """The bundle's classes are known to Keras since `load.py` was imported; nothing else of the bundle is in use."""
    form = "keras.models.load_model"
    try:
        model = keras.models.load_model(folder / entry["keras"])
    except Exception as error:
        what = comparison.why_not_rebuilt(error, repr(role))
        raise Mismatch("reload_mismatch", f"load.load() works and {form} fails: {what}", _PRECISION_HINT) from error
    found = _facts(model)
    for (path, cls, policy), (_, _, other) in zip(expected.policies, found.policies, strict=True):
        if policy != other:
            message = f"{form} of {role!r}: the layer {path!r} ({cls}) has the dtype policy {other}, was {policy}"
            raise Mismatch("reload_mismatch", message, _PRECISION_HINT)
    _same_variables(role, "weights", entry["weights"], model.weights, [])
    if not all(map(set.intersection, expected.optimizer, found.optimizer)):
        message = f"{form} of {role!r}: the optimizer came back with other values"
        raise Mismatch("reload_mismatch", message, _PRECISION_HINT)
    differences = _same_outputs(role, form, model, entry, stored, tolerance)
    return {"layers": len(found.policies), "outputs": comparison.worst(differences).document()}


_PRECISION_HINT = (
    "A layer must not depend on the floatx and the dtype policy of the process: pass `dtype` on to what it makes."
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
        with comparison.full_precision():
            if dense:
                outputs = serve(**dict(zip(entry["serving"]["inputs"], tf.nest.flatten(inputs), strict=True)))
                actual: Any = [outputs[name] for name in entry["serving"]["outputs"]]
            else:  # a signature takes a ragged tensor only in parts: the function beside it takes it whole
                actual = loaded.serving_default(inputs)
        found.append(
            _close(role, "SavedModel", tf.nest.flatten(expected), tf.nest.flatten(actual), tolerance, entry, None)
        )
        if "flat" in entry["serving"]:
            found.append(_verify_flat(loaded, role, entry, inputs, expected, tolerance))
    signatures = sorted(loaded.signatures)
    return {"signatures": signatures, "batches": len(found), "outputs": comparison.worst(found).document()}


def _verify_flat(
    loaded: Any, role: str, entry: dict[str, Any], inputs: Any, expected: Any, tolerance: float
) -> comparison.Difference:
    """`serving_flat`, called as a server would: with the parts of ragged and sparse inputs, by name."""
    parts, names = tf.nest.flatten(inputs, expand_composites=True), entry["serving"]["flat"]
    with comparison.full_precision():
        outputs = loaded.signatures["serving_flat"](**dict(zip(names["inputs"], parts, strict=True)))
    wanted, actual = tf.nest.flatten(expected, expand_composites=True), [outputs[name] for name in names["outputs"]]
    return _close(role, "the signature serving_flat of the SavedModel", wanted, actual, tolerance, entry, None)


if __name__ == "__main__":
    try:
        answer = main(sys.argv[1])
    except Exception as error:
        traceback.print_exc()
        answer = {"failure": {"code": "internal", "message": f"{type(error).__name__}: {error}", "hint": ""}}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.exit(1 if "failure" in answer else 0)
