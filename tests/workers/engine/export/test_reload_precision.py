"""Layers inside layers come back in the precision in which they were trained, in every way that a bundle is loaded."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tapeworks.components.loading import load_components
from tests.support.paths import LAB
from tests.workers.engine.conftest import exported, job, trained

load_components([LAB / "reload_parts.py"])

LOADED = """
def main(folder):
    import sys

    sys.path.insert(0, folder)
    import keras
    import load
    import numpy as np
    import tensorflow as tf

    before = keras.config.floatx(), keras.config.dtype_policy().name
    models = {"load": load.load()["model"], "load_model": keras.models.load_model(folder + "/models/model.keras")}
    served = tf.saved_model.load(folder + "/saved_model/model/1")
    with np.load(folder + "/probes/model.npz") as file:
        x = next(array for array in file.values() if array.ndim == 3)
    expected = np.asarray(served.signatures["serving_default"](x=tf.constant(x))["output_0"], "float64")
    return {
        "policies": {
            way: [layer.dtype_policy.name for layer in model._flatten_layers() if type(layer).__name__ == "Dense"]
            for way, model in models.items()
        },
        "apart": {
            way: float(np.abs(np.asarray(model(x), "float64") - expected).max()) for way, model in models.items()
        },
        "unchanged": before == (keras.config.floatx(), keras.config.dtype_policy().name),
    }
"""


def in_precision(precision: str, folder: Path) -> tuple[Any, Any]:
    dtype = "float64" if precision == "float64" else "float32"
    random = np.random.default_rng(0)
    data = [(random.standard_normal((n, 5, 4)).astype(dtype), random.integers(0, 3, n)) for n in (8, 8, 5)]
    element = (tf.TensorSpec([None, 5, 4], dtype), tf.TensorSpec([None], tf.int64))
    spec = job(
        model="parts/everything",
        loss={"component": "keras/SparseCategoricalCrossentropy", "config": {"from_logits": True}},
        metrics=[],
        training={"precision": precision},
    )
    assembly = trained(spec, element=element, data=data)
    return assembly.models["model"], exported(assembly, folder, data=data)


# Keras says of layers in its wrappers that they have no `build`; theirs is made by their first call.
@pytest.mark.slow
@pytest.mark.filterwarnings(r"ignore:`build\(\)` was called on layer:UserWarning")
@pytest.mark.parametrize(
    ("precision", "off"), [("float64", 1e-12), pytest.param("mixed_bfloat16", 0.05, marks=pytest.mark.thorough)]
)
def test_inner_layers_keep_their_precision(
    acme: Path, tmp_path: Path, verify: Any, fork: Any, precision: str, off: float
) -> None:
    model, draft = in_precision(precision, tmp_path / "bundle")
    trained_in = [layer.dtype_policy.name for layer in model._flatten_layers() if type(layer).__name__ == "Dense"]
    assert set(trained_in) == {precision, "bfloat16"}, "the cast layers of Chain(dtype='float32') have the job's"
    script = tmp_path / "loaded.py"
    script.write_text(LOADED)
    answer = fork(f"{script}:main", bar=True, folder=str(draft.folder))
    assert answer["ok"], answer
    report = answer["report"]
    assert report["policies"] == {"load": trained_in, "load_model": trained_in}
    assert max(report["apart"].values()) <= off, report["apart"]
    assert report["unchanged"] is True

    answer = verify("reload", draft.folder)
    assert answer["ok"], answer
    loaded = answer["report"]["models"]["model"]["load_model"]
    assert loaded["outputs"]["bit_equal"] is True
    answer = verify("certify", draft.folder)
    assert answer["ok"], answer


# Keras says of layers in its wrappers that they have no `build`.
@pytest.mark.slow
@pytest.mark.filterwarnings(r"ignore:`build\(\)` was called on layer:UserWarning")
def test_a_layer_that_follows_the_process_is_a_mismatch(acme: Path, tmp_path: Path, verify: Any) -> None:
    _, draft = in_precision("float64", tmp_path / "bundle")
    file = draft.folder / "components" / "component_precision.py"
    text = file.read_text()
    assert "config.set_dtype_policy(wanted)" in text
    file.write_text(text.replace("config.set_dtype_policy(wanted)", "pass"))
    manifest = draft.folder / "manifest.json"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    document = json.loads(manifest.read_text())
    document["files"]["components/component_precision.py"]["sha256"] = digest
    manifest.write_text(json.dumps(document))
    failure = verify("reload", draft.folder)["failure"]
    assert failure["code"] == "reload_mismatch"
    assert "keras.models.load_model" in failure["message"]
