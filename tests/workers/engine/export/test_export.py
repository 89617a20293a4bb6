"""What export writes, and verifier A: the models come back in a process without Tapeworks."""

import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks.bundle import load
from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.engine.export.model_files import named_specs, save_saved_model
from tapeworks_workers.engine.step.state import snapshot
from tests.workers.engine.conftest import CLASSES, ELEMENT, FEATURES, batches, exported, job, layers_of, trained


def test_a_bundle_comes_back_without_tapeworks(bundle: Path, verify: Any) -> None:
    answer = verify("reload", bundle)
    assert answer["ok"], answer
    report = answer["report"]
    model = report["models"]["model"]
    assert model["keras"]["outputs"]["bit_equal"] is True
    assert model["keras"]["config"] == "equal"
    assert model["keras"]["optimizer_variables"] == 2 + 2 * 4
    assert model["saved_model"]["outputs"]["max_abs_difference"] <= 1e-5
    assert report["tapeworks_modules"] == []
    assert report["bundle_modules"] == ["acme_constants", "acme_parts", "builtin_components.models.sequential"]


def test_the_manifest_tells_what_is_there(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    needed = {(entry["kind"], entry["name"]): entry for entry in manifest["components"]}
    assert set(needed) == {
        ("layer", "acme/Mish"), ("loss", "acme/Flooding"), ("metric", "acme/Seen"), ("regularizer", "acme/L3"),
        ("model", "sequential"), ("source", "iris"), ("step", "supervised"),
    }  # fmt: skip
    assert needed["layer", "acme/Mish"]["needed_by"] == "models"
    assert needed["step", "supervised"]["file"] == "components/builtin_components/steps/supervised.py"
    assert {entry["needed_by"] for (kind, _), entry in needed.items() if kind in ("source", "step")} == {"training"}
    assert (bundle / "components" / "acme_constants.py").is_file()
    assert (bundle / "components" / "licenses" / "acme_parts" / "LICENSE").read_text() == "Anybody may.\n"
    assert manifest["models"]["model"]["compiled"] is True
    assert set(manifest["files"]) >= {"load.py", "models/model.keras", "probes/model.npz", "training_state/values.npz"}


def test_export_leaves_the_job_as_it_was(acme: Path, tmp_path: Path) -> None:
    assembly = trained(job())
    before = snapshot(assembly, {}).values
    exported(assembly, tmp_path / "bundle")
    after = snapshot(assembly, {}).values
    assert list(before) == list(after)
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)
    assert not assembly.models["model"].compiled


def test_fit_goes_on_from_the_bundle_alone(bundle: Path, tmp_path: Path, fork: Any) -> None:
    folder = tmp_path / "elsewhere"
    shutil.copytree(bundle, folder)
    script = tmp_path / "go_on.py"
    script.write_text(GO_ON)
    answer = fork(f"{script}:main", bar=True, folder=str(folder))
    assert answer["ok"], answer
    report = answer["report"]
    assert report["class_modules"] == ["acme_parts"]
    assert report["beta"] == 1.7
    assert report["l3"] == 0.02
    assert report["level"] == 0.05
    assert report["weight"] == 2.0
    assert report["iterations"] == [5, 7]
    assert report["history"] == ["loss", "seen", "sparse_categorical_accuracy"]
    assert report["tapeworks"] == []
    assert report["script_status"] == 0
    assert not list((folder / "components").rglob("__pycache__"))


GO_ON = """
import sys


def main(folder):
    sys.path.insert(0, folder)
    import keras
    import load
    import numpy as np

    model = keras.models.load_model(folder + "/models/model.keras")
    before = int(model.optimizer.iterations)
    metric = model.get_compile_config()["metrics"][0]["config"]
    generator = np.random.default_rng(0)
    history = model.fit(generator.standard_normal((32, 8)), generator.integers(0, 3, 32), batch_size=16, verbose=0)
    mish = model.layers[1]
    return {
        "class_modules": sorted({type(mish).__module__, type(model.loss).__module__}),
        "beta": mish.beta,
        "l3": model.layers[0].kernel_regularizer.l3,
        "level": model.loss.level,
        "weight": metric["weight"],
        "iterations": [before, int(model.optimizer.iterations)],
        "history": sorted(history.history),
        "tapeworks": sorted(name for name in sys.modules if name.startswith("tapeworks")),
        "script_status": load.main(),
    }
"""


# ── what cannot come back ────────────────────────────────────────────────────────────────────────


def test_state_in_a_python_attribute_is_a_mismatch(acme: Path, tmp_path: Path, verify: Any) -> None:
    draft = exported(trained(job(model=layers_of({"component": "acme/Sloppy"}))), tmp_path / "bundle")
    failure = verify("reload", draft.folder)["failure"]
    assert failure["code"] == "reload_mismatch"
    assert "(Sloppy)" in failure["message"]


def test_an_argument_that_the_config_forgets_is_named(acme: Path, tmp_path: Path) -> None:
    forgetful = {"component": "acme/Forgetful", "config": {"factor": 2.0}}
    with pytest.raises(
        JobFailure, match=r"Forgetful cannot be rebuilt: its config lacks the argument 'factor'"
    ) as raised:
        exported(trained(job(model=layers_of(forgetful))), tmp_path / "bundle")
    assert raised.value.code is FailureCode.NOT_SERIALIZABLE
    assert raised.value.location is not None
    assert raised.value.location.component == "acme>Forgetful"


def test_an_argument_left_at_its_default_may_be_forgotten(acme: Path, tmp_path: Path, verify: Any) -> None:
    draft = exported(trained(job(model=layers_of({"component": "acme/Forgetful"}))), tmp_path / "bundle")
    assert verify("reload", draft.folder)["ok"]


def test_a_class_that_cannot_be_rebuilt_is_told_by_the_verifier(acme: Path, tmp_path: Path, verify: Any) -> None:
    stubborn = {"component": "acme/Stubborn", "config": {"factor": 2.0}}
    draft = exported(trained(job(model=layers_of(stubborn))), tmp_path / "bundle")
    failure = verify("reload", draft.folder)["failure"]
    assert failure["code"] == "not_serializable"
    assert "Stubborn" in failure["message"]
    assert "'factor'" in failure["message"]


@pytest.mark.parametrize("victim", ["models/model.keras", "components/acme_parts.py"])
def test_a_damaged_bundle_does_not_load(bundle: Path, tmp_path: Path, verify: Any, victim: str) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    with (folder / victim).open("r+b") as file:
        file.seek(100)
        file.write(b"damage")
    failure = verify("reload", folder)["failure"]
    assert f"{victim} is damaged" in failure["message"]


def test_other_weights_are_a_mismatch(bundle: Path, tmp_path: Path, verify: Any) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    weights = manifest["models"]["model"]["weights"]
    weights[2]["sha256"] = weights[0]["sha256"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    failure = verify("reload", folder)["failure"]
    assert failure["code"] == "reload_mismatch"
    assert weights[2]["path"] in failure["message"]


def words() -> tuple[Any, list[Any]]:
    """An element with named inputs of two dtypes and one that no model takes, and three batches of it."""
    generator = np.random.default_rng(3)
    x = {"words": tf.TensorSpec([None, 5], tf.int32), "other": tf.TensorSpec([None, 2]), "id": tf.TensorSpec([None])}
    data = [
        (
            {
                "words": generator.integers(0, 10, (4, 5)).astype(np.int32),
                "other": generator.standard_normal((4, 2)).astype(np.float32),
                "id": np.arange(4, dtype=np.float32),
            },
            generator.integers(0, 3, 4),
        )
        for _ in range(3)
    ]
    return (x, tf.TensorSpec([None], tf.int64)), data


def test_a_subclassed_model_with_named_inputs_comes_back(acme: Path, tmp_path: Path, verify: Any) -> None:
    element, data = words()
    spec = job(model={"component": "acme/Words", "config": {"units": 3}})
    draft = exported(trained(spec, element=element, data=data), tmp_path / "bundle", data=data)
    answer = verify("reload", draft.folder)
    assert answer["ok"], answer
    model = answer["report"]["models"]["model"]
    assert model["keras"]["outputs"]["bit_equal"] is True
    assert model["keras"]["weights"] == 3
    assert model["saved_model"]["outputs"]["max_abs_difference"] <= 1e-5
    assert draft.manifest["models"]["model"]["serving"]["inputs"] == ["id", "other", "words"]


def test_a_sampler_draws_the_same_numbers_again(acme: Path, tmp_path: Path, verify: Any) -> None:
    assembly = trained(job(model=layers_of({"component": "acme/Sampler"})))
    draft = exported(assembly, tmp_path / "bundle")
    x = batches()[0][0]
    model = assembly.models["model"]
    assert not np.array_equal(model(x, training=False), model(x, training=False))
    answer = verify("reload", draft.folder)
    assert answer["ok"], answer
    assert answer["report"]["models"]["model"]["keras"]["outputs"]["bit_equal"] is True
    assert answer["report"]["models"]["model"]["saved_model"]["outputs"]["max_abs_difference"] <= 1e-5


def test_every_output_keeps_its_loss_and_metrics(acme: Path, tmp_path: Path, verify: Any) -> None:
    sizes = np.linspace(0, 1, 16, dtype=np.float32)[:, None]
    data = [(x, {"kind": y, "size": sizes[: len(y)]}) for x, y in batches()]
    y = {"kind": ELEMENT[1], "size": tf.TensorSpec([None, 1])}
    flooding = {"component": "acme/Flooding", "config": {"level": 0.2}, "weight": 0.5}
    spec = job(
        model="acme/Heads",
        loss={"outputs": {"kind": flooding, "size": "keras/MeanSquaredError"}},
        metrics={"outputs": {"size": [{"component": "keras/MeanAbsoluteError", "weighted": True}]}},
    )
    draft = exported(trained(spec, element=(ELEMENT[0], y), data=data), tmp_path / "bundle", data=data)
    answer = verify("reload", draft.folder)
    assert answer["ok"], answer
    assert draft.manifest["models"]["model"]["serving"]["outputs"] == ["kind", "size"]
    compiled = load(draft.folder)["model"].get_compile_config()
    assert compiled["loss"]["kind"]["config"]["level"] == 0.2
    assert compiled["loss_weights"] == {"kind": 0.5, "size": 1.0}
    assert [metric["class_name"] for metric in compiled["weighted_metrics"]["size"]] == ["MeanAbsoluteError"]


@pytest.mark.slow
def test_built_in_parts_come_back(acme: Path, tmp_path: Path, verify: Any) -> None:
    gated = {"component": "gated_residual", "config": {"units": 8}}
    orthogonal = {"units": 8, "kernel_regularizer": {"component": "orthogonal", "config": {}}}
    schedule = {"component": "keras/CosineDecay", "config": {"initial_learning_rate": 0.01, "decay_steps": 10}}
    layers = [{"component": "keras/Dense", "config": orthogonal}, gated, {"component": "keras/BatchNormalization"}]
    spec = job(
        model=layers_of(*layers),
        loss={"component": "focal", "config": {"gamma": 1.5}},
        metrics=[{"component": "macro_f_beta", "config": {"classes": CLASSES}}, "keras/SparseTopKCategoricalAccuracy"],
        optimizer={"component": "keras/AdamW", "config": {"learning_rate": schedule}},
        gradients=[{"component": "clip_by_global_norm", "config": {"max_norm": 1.0}}],
    )
    draft = exported(trained(spec), tmp_path / "bundle")
    answer = verify("reload", draft.folder)
    assert answer["ok"], answer
    assert answer["report"]["models"]["model"]["keras"]["outputs"]["bit_equal"] is True
    answer = verify("certify", draft.folder)
    assert answer["ok"], answer
    assert answer["report"]["step"]["bit_equal"] is True


def test_fresh_weights_after_a_reload_are_a_mismatch(acme: Path, tmp_path: Path, verify: Any) -> None:
    element, data = words()
    draft = exported(trained(job(model="acme/Lost"), element=element, data=data), tmp_path / "bundle", data=data)
    failure = verify("reload", draft.folder)["failure"]
    assert failure["code"] == "reload_mismatch", failure
    assert "embedding" in failure["message"]


# ── SavedModel ───────────────────────────────────────────────────────────────────────────────────


def test_named_inputs_are_served_by_their_keys(tmp_path: Path) -> None:
    class Sum(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, inputs: dict[str, Any]) -> dict[str, Any]:
            return {"b": self.dense(inputs["sepal length (cm)"]), "a": inputs["other"]["x"] * 2}

    spec = {"sepal length (cm)": tf.TensorSpec([None, 4]), "other": {"x": tf.TensorSpec([None, 1])}}
    model = Sum()
    x = {"sepal length (cm)": tf.ones([3, 4]), "other": {"x": tf.ones([3, 1])}}
    expected = model(x)
    names = save_saved_model(model, spec, {}, tmp_path / "1", others={})
    assert names == {"inputs": ["other_x", "sepal_length_cm"], "outputs": ["a", "b"]}
    serve = tf.saved_model.load(str(tmp_path / "1")).signatures["serving_default"]
    outputs = serve(sepal_length_cm=x["sepal length (cm)"], other_x=x["other"]["x"])
    np.testing.assert_allclose(outputs["b"], expected["b"], rtol=1e-6)
    np.testing.assert_array_equal(outputs["a"], expected["a"])


def test_names_stay_apart() -> None:
    named = named_specs({"a b": tf.TensorSpec([None]), "a_b": tf.TensorSpec([None]), "1": tf.TensorSpec([None])})
    assert sorted(spec.name for spec in named.values()) == ["a_b", "a_b_", "x_1"]
    assert named_specs(tf.TensorSpec([None])).name == "x"


def test_a_ragged_input_is_exported_and_served(tmp_path: Path) -> None:
    class Bag(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = keras.layers.Embedding(10, 4)

        def call(self, inputs: tf.RaggedTensor) -> tf.Tensor:
            return tf.reduce_mean(self.embedding(inputs), axis=1)

    model, x = Bag(), tf.ragged.constant([[1, 2], [3]])
    expected = model(x)
    save_saved_model(model, tf.RaggedTensorSpec([None, None], tf.int32), {}, tmp_path / "1", others={})
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    np.testing.assert_allclose(loaded.serving_default(x), expected, rtol=1e-6)


def test_random_layers_are_still_in_what_is_served(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.RandomContrast(0.9)])
    save_saved_model(model, tf.TensorSpec([None, 4, 4, 1]), {}, tmp_path / "1", others={})
    x = tf.random.stateless_uniform([2, 4, 4, 1], [1, 2])
    served = tf.saved_model.load(str(tmp_path / "1")).signatures["serving_default"](x=x)["output_0"]
    np.testing.assert_array_equal(served, x)


assert (FEATURES, CLASSES) == (8, 3), "the scripts above say these numbers"
