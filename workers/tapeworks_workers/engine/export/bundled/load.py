"""Load the models of this bundle. Needs TensorFlow and Keras, not Tapeworks.

    python load.py                                   loads every model and compares it with the one that was trained

    import load                                      makes the custom classes in components/ known to Keras, so that
    keras.models.load_model("models/model.keras")    works; compiled models go on with .fit(...)
    load.load()                                      {role: keras.Model}
    load.classify(model, inputs)                     names of classes and scores, where the job's labels have names

The files in components/ are the authors' own. They import `tapeworks` for its `@component` decorator: while they are
imported, a stand-in takes its place, whether Tapeworks is installed or not.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

HERE = Path(__file__).resolve().parent


def load(folder: str | Path | None = None, roles: Sequence[str] | None = None) -> dict[str, Any]:
    """The bundle's Keras models by role; `roles` for some of them. Checks the files' digests first."""
    folder = HERE if folder is None else Path(folder).resolve()
    manifest = check(folder)
    custom = components(folder, manifest)
    held = {role: entry["keras"] for role, entry in manifest["models"].items() if entry["keras"]}
    unknown = sorted(set(roles or ()) - set(held))
    if unknown:
        raise KeyError(f"this bundle has no Keras model {', '.join(unknown)}; it has {', '.join(held) or 'none'}")
    # Keras lets what is registered globally win over a custom_object_scope: the bundle's own classes stand in both.
    before, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(manifest["floatx"])  # .keras files do not say it, and optimizers and losses take it
    keras.config.set_dtype_policy(manifest["dtype_policy"])  # nor do they keep the policy of a model beside its layers'
    try:
        with _registered(custom), keras.saving.custom_object_scope(custom):
            return {role: keras.models.load_model(folder / held[role]) for role in roles or held}
    finally:
        keras.config.set_floatx(before)
        keras.config.set_dtype_policy(policy)


def classify(model: Any, inputs: Any, role: str | None = None, folder: str | Path | None = None) -> dict[str, Any]:
    """`class` (batch,): the name with the largest score; `classes` (batch, C): all names; `scores`, beside them.

    As the signature `classify` of the SavedModel. `role`: of the model; default: the only one that has it.
    """
    manifest = json.loads(((HERE if folder is None else Path(folder)) / "manifest.json").read_text(encoding="utf-8"))
    having = {name: entry["classify"] for name, entry in manifest["models"].items() if entry.get("classify")}
    if (role is None and len(having) != 1) or (role is not None and role not in having):
        raise KeyError(f"give the role of a model that classifies; this bundle has {', '.join(having) or 'none'}")
    about, names = next(iter(having.values())) if role is None else having[role], manifest["class_names"]
    outputs = model(inputs, training=False)
    values = outputs if outputs.dtype == tf.float64 else tf.cast(outputs, tf.float32)
    values = tf.reshape(values, [-1]) if about["outputs"] == "of_the_second" else values
    values = {"softmax": tf.nn.softmax, "sigmoid": tf.sigmoid, "none": tf.identity}[about["activation"]](values)
    scores = values if about["outputs"] == "one_each" else tf.stack([1 - values, values], -1)
    listed = tf.constant(names, tf.string)
    classes = tf.broadcast_to(listed, tf.shape(scores))
    return {"class": tf.gather(listed, tf.argmax(scores, -1)), "classes": classes, "scores": scores}


def check(folder: Path) -> dict[str, Any]:
    """The manifest, once every file that it lists and that is here has the digest stated there."""
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for name, entry in manifest["files"].items():
        file = folder / name
        if not file.exists():
            continue  # a part of the bundle that was downloaded alone
        with file.open("rb") as opened:
            if hashlib.file_digest(opened, "sha256").hexdigest() != entry["sha256"]:
                raise ValueError(f"{name} is damaged: its sha-256 is not the one in manifest.json")
    return manifest


# ── the custom classes ───────────────────────────────────────────────────────────────────────────

_imported: dict[Path, dict[str, Any]] = {}


def components(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Import what the models need from components/: Keras' registered name → class or function."""
    if folder not in _imported:
        modules = {c["bundled_module"]: None for c in manifest["components"] if c["needed_by"] == "models"}
        with _registered({}):
            _imported[folder] = _import(folder / "components", list(modules))
        for name, target in _imported[folder].items():
            keras.saving.get_custom_objects().setdefault(name, target)
    return _imported[folder]


def _import(folder: Path, modules: Sequence[str]) -> dict[str, Any]:
    """Import the modules with the stand-in for `tapeworks`; modules of the same names elsewhere stay as they are."""
    names = {file.stem for file in folder.iterdir() if file.is_dir() or file.suffix == ".py"} | {"tapeworks"}
    aside = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in names}
    found: dict[str, Any] = {}
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        if modules:
            sys.modules["tapeworks"] = _stand_in(found)
        known = dict(keras.saving.get_custom_objects())
        for name in modules:
            importlib.import_module(name)
        if modules:
            _add_registered(found, known, names)
    finally:
        sys.path.remove(str(folder))
        sys.dont_write_bytecode = written
        taken = {name.partition(".")[0] for name in aside} | {
            "tapeworks",
            "component_serialization",
            "component_precision",
            "component_builds",
        }
        for name in [name for name in sys.modules if name.partition(".")[0] in taken]:
            del sys.modules[name]
        sys.modules.update(aside)
    return found


def _add_registered(found: dict[str, Any], known: Mapping[str, Any], names: set[str]) -> None:
    """Add what these files, and packages that they imported, registered with Keras themselves."""
    serialization = importlib.import_module("component_serialization")
    for name, target in keras.saving.get_custom_objects().items():
        if known.get(name) is target or name in found:
            continue
        found[name] = target
        own = getattr(target, "__module__", "").partition(".")[0] in names
        if own and isinstance(target, type) and issubclass(target, keras.Layer):
            serialization.keep_precision(target)


def _stand_in(found: dict[str, Any]) -> types.ModuleType:
    """What a component's file takes from `tapeworks`: the decorator, and names to subclass and annotate with."""
    serialization = importlib.import_module("component_serialization")

    def component(name: str, *, kind: str | None = None, **ignored: Any) -> Any:
        def register(target: Any) -> Any:
            if issubclass(target, _KERAS_BASES) if isinstance(target, type) else kind in ("loss", "metric"):
                found[">".join(serialization.keras_name(name))] = serialization.register(name, target)
            return target

        return register

    module = types.ModuleType("tapeworks", "A stand-in while this bundle's components are imported.")
    bases = ("TrainingStep", "Source", "SourceOfSources", "GradientTransform", "Evaluator", "Callback")
    for base in (*bases, "Run", "Files", "Branch", "EarlierJob", "Tensor"):
        setattr(module, base, type(base, (), {}))
    module.component = component  # type: ignore[attr-defined]
    return module


_KERAS_BASES = (
    keras.Layer,
    keras.losses.Loss,
    keras.metrics.Metric,
    keras.optimizers.Optimizer,
    keras.optimizers.schedules.LearningRateSchedule,
    keras.regularizers.Regularizer,
    keras.constraints.Constraint,
    keras.initializers.Initializer,
)


@contextmanager
def _registered(custom: Mapping[str, Any]) -> Iterator[None]:
    """Keras' registry with these objects in it; as it was afterwards."""
    registry = keras.saving.get_custom_objects()
    before = dict(registry)
    registry.update(custom)
    try:
        yield
    finally:
        registry.clear()
        registry.update(before)


# ── the proof ────────────────────────────────────────────────────────────────────────────────────


def main() -> int:
    """Load everything, call each model with its stored probe, and say how close it comes."""
    tf.config.experimental.enable_tensor_float_32_execution(False)  # a GPU's rounding is not the model's
    manifest = check(HERE)
    far = 0
    for role, model in load().items():
        entry = manifest["models"][role]["probe"]
        with np.load(HERE / entry["file"], allow_pickle=False) as file:
            arrays = dict(file)
        known = {id(variable) for variable in model.weights}
        for variable, seed in zip((v for v in model.variables if id(v) not in known), entry["seeds"], strict=True):
            variable.assign(seed)  # .keras files leave out where random layers stand
        largest, equal = 0.0, True  # stateful RNNs begin with zeros, as they did for the stored outputs
        for batch in entry["batches"]:
            outputs = tf.nest.flatten(model(nest(batch["inputs"], arrays), training=False), expand_composites=True)
            expected = tf.nest.flatten(nest(batch["outputs"], arrays), expand_composites=True)
            for a, b in zip(expected, outputs, strict=True):
                if not np.array_equal(a, b):
                    equal = False
                    apart = np.abs(np.subtract(a, b, dtype=np.float64)).max()
                    largest = max(largest, float(apart / max(1.0, np.abs(a).max())))
        far += not largest <= manifest["tolerance"]
        words = "bit-equal to" if equal else f"within {largest:.3g} of"
        sys.stdout.write(f"{role}: {len(model.weights)} weights, outputs {words} the trained model's\n")
    sys.stdout.write(f"{len(manifest['models'])} model(s) loaded from {HERE}, without Tapeworks\n")
    return 1 if far else 0


def nest(structure: Mapping[str, Any], arrays: Mapping[str, Any]) -> Any:
    """A nest of tensors: its structure from the manifest, its arrays from an npz file (no pickles)."""
    kind = structure["kind"]
    if kind == "none":
        return None
    if kind == "dict":
        return {key: nest(item, arrays) for key, item in structure["items"].items()}
    if kind in ("list", "tuple"):
        return {"list": list, "tuple": tuple}[kind](nest(item, arrays) for item in structure["items"])
    if kind == "ragged":
        splits = [nest(item, arrays) for item in structure["row_splits"]]
        return tf.RaggedTensor.from_nested_row_splits(nest(structure["values"], arrays), splits)
    if kind == "sparse":
        return tf.SparseTensor(*(nest(structure[part], arrays) for part in ("indices", "values", "dense_shape")))
    raw, dtype = arrays[structure["array"]], tf.as_dtype(structure["dtype"])
    if dtype == tf.string:
        ends = np.cumsum(arrays[structure["array"] + "_lengths"]).tolist()
        raw = [raw.tobytes()[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    elif raw.dtype != dtype.as_numpy_dtype:
        raw = raw.view(dtype.as_numpy_dtype)
    return tf.constant(raw, dtype, structure["shape"])


if __name__ == "__main__":
    sys.exit(main())
elif (HERE / "manifest.json").exists():
    components(HERE, check(HERE))
