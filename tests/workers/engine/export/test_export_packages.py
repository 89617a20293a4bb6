"""Bundles whose parts come from several packages, and models inside models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tapeworks.bundle import load
from tapeworks.components.loading import load_components
from tests.workers.engine.conftest import CLASSES, batches, exported, job, trained

BLOCK = '''
"""A package with a class that the other one has too, in a module of the same name within it."""

import keras
from tapeworks import component


@component("{package}/Block")
class Block(keras.layers.Layer):
    def __init__(self, factor: float = {factor}, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")

    def call(self, x):
        return x {sign} self.scale * self.factor
'''
NET = '''
"""A functional model around a subclassed one, which takes several named arguments, one of them of integers."""

import keras
from tapeworks import component


@component("one/Ranker")
class Ranker(keras.Model):
    def __init__(self, units: int = 4, **kwargs):
        super().__init__(**kwargs)
        self.embedding = keras.layers.Embedding(10, units)
        self.inner = Inner(units)
        self.out = keras.layers.Dense(3)

    def call(self, word, other, training=False):
        hidden = keras.ops.mean(self.embedding(word), axis=1) + keras.ops.mean(other, axis=1, keepdims=True)
        return self.out(self.inner(hidden, training=training))


@component("one/Inner")
class Inner(keras.Model):
    def __init__(self, units: int, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(units, activation="relu")
        self.drop = keras.layers.Dropout(0.5)

    def call(self, x, training=False):
        return self.drop(self.dense(x), training=training)


@component("one/Net", kind="model")
def net(units: int = 4) -> keras.Model:
    words = keras.Input([5], dtype="int32", name="words")
    other = keras.Input([2], name="other")
    hidden = Ranker(units, name="ranker")(words, other=other)
    return keras.Model({"words": words, "other": other}, Inner(3, name="inner")(hidden))
'''


@pytest.fixture(scope="module")
def packages(acme: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Two packages, `one` and `two`, each with `blocks.Block`, and a file beside them."""
    folder = tmp_path_factory.mktemp("packages")
    for package, factor, sign in (("one", 2.0, "*"), ("two", 3.0, "+")):
        (folder / f"package_{package}").mkdir()
        (folder / f"package_{package}" / "__init__.py").write_text(f'"""Package {package}."""\n')
        source = BLOCK.format(package=package, factor=factor, sign=sign)
        (folder / f"package_{package}" / "blocks.py").write_text(source.lstrip())
    (folder / "one_net.py").write_text(NET.lstrip())
    load_components([folder / "package_one", folder / "package_two", folder / "one_net.py"])


@pytest.mark.slow
def test_classes_of_one_name_in_two_packages_do_not_collide(packages: None, tmp_path: Path, verify: Any) -> None:
    blocks = [
        {"component": "one/Block", "config": {"factor": 0.5}},
        {"component": "two/Block"},
        {"component": "one/Block"},
    ]
    layers = [*blocks, {"component": "keras/Dense", "config": {"units": CLASSES}}]
    assembly = trained(job(model={"component": "sequential", "config": {"layers": layers}}))
    folder = exported(assembly, tmp_path / "bundle").folder
    answer = verify("reload", folder)
    assert answer["ok"], answer
    assert answer["report"]["models"]["model"]["keras"]["outputs"]["bit_equal"] is True
    assert {"package_one.blocks", "package_two.blocks"} <= set(answer["report"]["bundle_modules"])
    answer = verify("certify", folder)
    assert answer["ok"], answer
    model, x = load(folder)["model"], batches()[0][0]
    kinds = [(type(layer).__module__, layer.factor) for layer in model.layers[:3]]
    assert kinds == [("package_one.blocks", 0.5), ("package_two.blocks", 3.0), ("package_one.blocks", 2.0)]
    np.testing.assert_array_equal(model(x), assembly.models["model"](x))
    plain = tf.saved_model.load(str(folder / "saved_model" / "model" / "1")).signatures["serving_default"]
    np.testing.assert_allclose(plain(x=x)["output_0"], model(x), rtol=1e-5, atol=1e-6)


def test_subclassed_models_inside_a_functional_one_come_back(packages: None, tmp_path: Path, verify: Any) -> None:
    generator = np.random.default_rng(3)
    x = {
        "words": tf.TensorSpec([None, 5], tf.int32),
        "other": tf.TensorSpec([None, 2]),
        "unused": tf.TensorSpec([None]),
    }
    data = [
        (
            {
                "words": generator.integers(0, 10, (size, 5)).astype("int32"),
                "other": generator.normal(size=(size, 2)).astype("float32"),
                "unused": np.zeros(size, "float32"),
            },
            generator.integers(0, CLASSES, size),
        )
        for size in (4, 4, 2)
    ]
    net = {"component": "one/Net", "config": {"units": 6}}
    spec = job(model=net, metrics=[], training={"precision": "mixed_bfloat16"})
    assembly = trained(spec, element=(x, tf.TensorSpec([None], tf.int64)), data=data)
    draft = exported(assembly, tmp_path / "bundle", data=data)
    answer = verify("reload", draft.folder)
    assert answer["ok"], answer
    assert answer["report"]["models"]["model"]["keras"]["outputs"]["bit_equal"] is True
    assert answer["report"]["models"]["model"]["keras"]["weights"] == len(assembly.models["model"].weights) == 7
    assert draft.manifest["models"]["model"]["serving"]["inputs"] == ["other", "words"]
    needed = {entry["name"] for entry in json.loads((draft.folder / "manifest.json").read_text())["components"]}
    assert {"one/Net", "one/Ranker", "one/Inner"} <= needed
