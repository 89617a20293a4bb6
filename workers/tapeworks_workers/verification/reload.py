"""Verifier A, first half: a bundle's models are loaded in a process that knows nothing of Tapeworks.

`main(bundle, into)` runs in a fork of the base zygote (by path), or as `python reload.py BUNDLE INTO`. It holds the
code that the bundle brings, so it decides nothing: what each model gave is written to the folder `into`
(`observation.py`), and `engine/reload_comparison.py` compares it in another process. Each model is loaded in every
documented way:

- `load.load()`: weights, optimizer, config and outputs; outputs again with the process's own precision, whatever the
  job's was;
- `import load` and `keras.models.load_model`, in a process of Keras' defaults: the dtype policy of each layer, weights,
  optimizer and outputs;
- `tf.saved_model.load`: outputs of each signature.

`certify.py` covers `tapeworks.load`, which is barred here. What cannot be loaded is written as the failure
`{"code", "message", "hint"}`, after all that was seen before it:

- `reload_mismatch`: the weights do not fit, or one way of loading works and another fails.
- `not_serializable`: a class could not be rebuilt from its config; the message names the argument.
- `component_error`: the bundle's components cannot be imported.

Only the standard library, NumPy, Keras and TensorFlow are imported, and four files of the engine by path: the runner
stored what it saw of the trained model with the same functions.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    from tapeworks_workers.engine import comparison, observation
    from tapeworks_workers.engine.export import tensor_json
    from tapeworks_workers.verification import reload_hints
else:
    _ENGINE = Path(__file__).parents[1] / "engine"
    comparison, observation = (_from_file(name, _ENGINE / f"{name}.py") for name in ("comparison", "observation"))
    tensor_json = _from_file("tensor_json", _ENGINE / "export" / "tensor_json.py")
    reload_hints = _from_file("reload_hints", Path(__file__).with_name("reload_hints.py"))


class NotLoaded(Exception):
    """The bundle cannot be loaded in one of the ways; `failure` has one of Tapeworks' failure codes."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.failure = {"code": code, "message": message, "hint": hint}


# ── what is seen, in order ───────────────────────────────────────────────────────────────────────


def main(bundle: str, into: str) -> dict[str, Any]:
    """Load the models of the bundle in this folder, and write what they gave to the folder `into`."""
    folder = Path(bundle)
    if any(name.startswith(BARRED) for name in sys.modules):
        raise RuntimeError("this process has imported Tapeworks: a reload here would prove nothing")
    sys.meta_path.insert(0, _Barrier())
    manifest = json.loads((folder / "manifest.json").read_text())
    arrays = tensor_json.Arrays()
    facts: dict[str, Any] = {"models": {}}
    try:
        _observe(folder, manifest, facts, arrays)
    except NotLoaded as error:
        facts["failure"] = error.failure
    except Exception as error:
        traceback.print_exc()
        facts["failure"] = {"code": "internal", "message": f"{type(error).__name__}: {error}", "hint": ""}
    observation.write_observation(Path(into), facts, arrays.arrays)
    return {}


class _Barrier:
    """Refuses to import Tapeworks: what works here works where it was never installed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Part of Python's import protocol."""
        if name.partition(".")[0].startswith(BARRED):
            raise ModuleNotFoundError(
                f"{name} cannot be imported here: a bundle must load without Tapeworks", name=name
            )


def _observe(folder: Path, manifest: dict[str, Any], facts: dict[str, Any], arrays: tensor_json.Arrays) -> None:
    before = set(sys.modules)
    loader = _bundle_loader(folder)
    for role, entry in manifest["models"].items():
        seen: dict[str, Any] = {}
        facts["models"][role] = seen
        inputs = _probe_inputs(folder, loader, entry["probe"])
        if entry["keras"]:
            _observe_keras(folder, loader, manifest, role, inputs, seen, arrays)
            _observe_load_model(folder, role, entry, inputs, seen, arrays)
        if entry["saved_model"]:
            _observe_saved_model(folder, entry, inputs, seen, arrays)
    components = folder.resolve() / "components"
    imported = {name: getattr(sys.modules[name], "__file__", None) or "" for name in set(sys.modules) - before}
    facts["device"] = comparison.device()
    facts["tapeworks_modules"] = sorted(name for name in sys.modules if name.startswith(BARRED))
    facts["bundle_modules"] = sorted(name for name, file in imported.items() if file.startswith(str(components)))


def _bundle_loader(folder: Path) -> ModuleType:
    try:
        return _from_file("bundle_load", folder / "load.py")
    except Exception as error:
        if isinstance(error, ValueError) and "is damaged" in str(error):
            raise NotLoaded(
                "reload_mismatch", f"the bundle changed on disk: {error}", "Export the job again."
            ) from error
        raise NotLoaded(
            "component_error",
            f"the components in the bundle cannot be imported without Tapeworks: {type(error).__name__}: {error}",
            "A component's file may import the standard library, numpy, keras, tensorflow, the names of `tapeworks` "
            "that authors use, and modules of its own package.",
        ) from error


def _probe_inputs(folder: Path, loader: ModuleType, entry: dict[str, Any]) -> list[Any]:
    with np.load(folder / entry["file"], allow_pickle=False) as file:
        return [loader.nest(batch["inputs"], file) for batch in entry["batches"]]


# ── .keras ───────────────────────────────────────────────────────────────────────────────────────


def _observe_keras(
    folder: Path,
    loader: ModuleType,
    manifest: dict[str, Any],
    role: str,
    inputs: Sequence[Any],
    seen: dict[str, Any],
    arrays: tensor_json.Arrays,
) -> None:
    """`load.load()`: the model and its optimizer, its config and that of one rebuilt from it, its outputs twice."""
    entry, found = manifest["models"][role], seen.setdefault("keras", {})
    with _precision_of(manifest):
        model, found["complaints"] = _load(folder, loader, role)
        optimizer = getattr(model, "optimizer", None)
        found["weights"] = _digests(model.weights, arrays)
        found["optimizer"] = _digests(optimizer.variables if optimizer else [], arrays)
        found["configs"] = _configs(role, model)
        found["outputs"] = _outputs(model, entry, inputs, arrays)
        if entry.get("classify"):
            answers = [loader.classify(model, batch, role, folder) for batch in inputs]
            found["classify"] = [_classes(one, arrays) for one in answers]
    found["outputs_of_other_precision"] = _outputs(model, entry, inputs, arrays)
    found["facts"] = _facts(model, arrays)


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


def _digests(variables: Sequence[Any], arrays: tensor_json.Arrays) -> dict[str, Any]:
    """By position: names are not stable (auto-numbered layers), order is."""
    return arrays.add(observation.digest_rows([comparison.digest(variable.numpy()) for variable in variables]))


def _outputs(
    model: keras.Model, entry: dict[str, Any], inputs: Sequence[Any], arrays: tensor_json.Arrays
) -> list[dict[str, Any]]:
    """Call the model with each probe, from the states that random layers and stateful RNNs had in training memory."""
    for variable, value in zip(comparison.seed_variables(model), entry["probe"]["seeds"], strict=True):
        variable.assign(value)
    comparison.reset_recurrent_states(model)
    found = []
    for batch in inputs:
        observed = comparison.probe(model, batch)
        found.append({"outputs": arrays.add(observed.outputs), "losses": observed.losses, "layers": observed.layers})
    return found


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


def _cannot_load(role: str, error: Exception) -> NotLoaded:
    text = str(error)
    if re.search(r"could not be loaded|axes don't match|shape mismatch|expected \d+ variables", text):
        return NotLoaded(
            "reload_mismatch", f"the weights of {role!r} do not fit: {comparison.short(text)}", reload_hints.STATE_HINT
        )
    return NotLoaded("not_serializable", comparison.why_not_rebuilt(error, repr(role)), reload_hints.CONFIG_HINT)


def _configs(role: str, model: keras.Model) -> list[Any]:
    """The config of the loaded model, and that of a model rebuilt from it."""
    try:
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    except Exception as error:
        raise NotLoaded(
            "not_serializable", comparison.why_not_rebuilt(error, repr(role)), reload_hints.CONFIG_HINT
        ) from error
    return [json.loads(json.dumps(keras.saving.serialize_keras_object(one))) for one in (model, again)]


# ── import load, keras.models.load_model ─────────────────────────────────────────────────────────


def _facts(model: keras.Model, arrays: tensor_json.Arrays) -> dict[str, Any]:
    """What two loads of one file must have in common: path, class and dtype policy of each layer, and the optimizer's
    variables in their own dtype and in float32, since Keras keeps the rate in floatx."""
    # No config keeps the policy that these have themselves, and none of their values depends on it.
    # TextVectorization makes its lookup under the global one.
    plain: set[Any] = {keras.Sequential, keras.src.models.Functional, keras.layers.InputLayer}
    plain |= {keras.layers.StringLookup, keras.layers.IntegerLookup}
    layers = [layer for layer in model._flatten_layers() if type(layer) not in plain]
    policies = [(layer.path or layer.name, type(layer).__name__, layer.dtype_policy.name) for layer in layers]
    optimizer = getattr(model, "optimizer", None)
    values = [variable.numpy() for variable in optimizer.variables] if optimizer else []
    wide = [value.astype(np.float32) if value.dtype == np.float64 else value for value in values]
    digests = [observation.digest_rows([comparison.digest(one) for one in kept]) for kept in (values, wide)]
    return {"policies": policies, "optimizer": [arrays.add(rows) for rows in digests]}


def _observe_load_model(
    folder: Path,
    role: str,
    entry: dict[str, Any],
    inputs: Sequence[Any],
    seen: dict[str, Any],
    arrays: tensor_json.Arrays,
) -> None:
    """The bundle's classes are known to Keras since `load.py` was imported; nothing else of the bundle is in use."""
    try:
        model = keras.models.load_model(folder / entry["keras"])
    except Exception as error:
        what = comparison.why_not_rebuilt(error, repr(role))
        message = f"load.load() works and keras.models.load_model fails: {what}"
        raise NotLoaded("reload_mismatch", message, reload_hints.PRECISION_HINT) from error
    found = seen.setdefault("load_model", {})
    found["facts"] = _facts(model, arrays)
    found["weights"] = _digests(model.weights, arrays)
    found["outputs"] = _outputs(model, entry, inputs, arrays)


# ── SavedModel ───────────────────────────────────────────────────────────────────────────────────


def _observe_saved_model(
    folder: Path, entry: dict[str, Any], inputs: Sequence[Any], seen: dict[str, Any], arrays: tensor_json.Arrays
) -> None:
    """`serving_default`, `classify` with class names, and `serving_flat` as a server calls it: with ragged and sparse
    inputs in parts, by name."""
    loaded = tf.saved_model.load(str(folder / entry["saved_model"]))
    serve, serving = loaded.signatures["serving_default"], entry["serving"]
    dense = all(isinstance(leaf, tf.Tensor) for batch in inputs for leaf in tf.nest.flatten(batch))
    found = seen["saved_model"] = {"signatures": sorted(loaded.signatures), "outputs": [], "flat": [], "classify": []}
    for batch in inputs:
        with comparison.full_precision():
            if dense:
                outputs = serve(**dict(zip(serving["inputs"], tf.nest.flatten(batch), strict=True)))
                actual: Any = [outputs[name] for name in serving["outputs"]]
            else:  # a signature takes a ragged tensor only in parts: the function beside it takes it whole
                actual = tf.nest.flatten(loaded.serving_default(batch))
            if entry.get("classify"):
                named = dict(zip(serving["inputs"], tf.nest.flatten(batch), strict=True)) if dense else {}
                classes = loaded.signatures["classify"](**named) if dense else loaded.classify(batch)
                found["classify"].append(_classes(classes, arrays))
        found["outputs"].append(arrays.add(actual))
        if "flat" in serving:
            parts, names = tf.nest.flatten(batch, expand_composites=True), serving["flat"]
            with comparison.full_precision():
                outputs = loaded.signatures["serving_flat"](**dict(zip(names["inputs"], parts, strict=True)))
            found["flat"].append(arrays.add([outputs[name] for name in names["outputs"]]))


def _classes(answers: Any, arrays: tensor_json.Arrays) -> dict[str, Any]:
    """What the signature `classify` gave."""
    return {name: arrays.add(answers[name]) for name in ("class", "classes", "scores")}


if __name__ == "__main__":
    main(*sys.argv[1:])
