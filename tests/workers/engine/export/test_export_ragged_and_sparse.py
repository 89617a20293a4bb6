"""Ragged and sparse inputs, from a job to its bundle: real probes, both signatures, both verifiers, little memory."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support.paths import ROOT
from tests.workers.engine.conftest import CLASSES, batches, exported, job, trained

COLUMNS = 40
ELEMENT = (
    {
        "user": tf.RaggedTensorSpec([None, None], tf.int64),
        "item": tf.TensorSpec([None], tf.int32),
        "tags": tf.SparseTensorSpec([None, COLUMNS], tf.float32),
    },
    tf.TensorSpec([None, 1], tf.float32),
)
TOWERS = {"ids": {"user": 9, "item": 9}, "item_features": ["item", "tags"], "dimension": 3, "hidden": [4]}
CROSS_ENTROPY = {"component": "keras/BinaryCrossentropy", "config": {"from_logits": True}}


def visits() -> list[Any]:
    """Batches as the pipeline gives them, the last one short, with rows of nothing."""
    generator = np.random.default_rng(2)
    found = []
    for size in (6, 6, 3):
        lengths = generator.integers(0, 4, size)
        ids = tf.RaggedTensor.from_row_lengths(generator.integers(0, 9, lengths.sum()), lengths)
        cells = np.stack([np.arange(1, size), generator.integers(0, COLUMNS, size - 1)], axis=1)
        tags = tf.SparseTensor(cells, generator.normal(size=size - 1).astype("float32"), [size, COLUMNS])
        item = tf.constant(generator.integers(0, 9, size), tf.int32)
        y = tf.constant(generator.integers(0, 2, (size, 1)), tf.float32)
        found.append(({"user": ids, "item": item, "tags": tags}, y))
    return found


@pytest.fixture(scope="module")
def towers(acme: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a job whose x is ragged, sparse and dense."""
    spec = job(model={"component": "two_tower", "config": TOWERS}, loss=CROSS_ENTROPY, metrics=[])
    assembly = trained(spec, element=ELEMENT, data=visits())
    return exported(assembly, tmp_path_factory.mktemp("export") / "bundle", data=visits()).folder


@pytest.mark.slow
def test_the_probes_are_the_real_batches(towers: Path) -> None:
    probe = json.loads((towers / "manifest.json").read_text())["models"]["model"]["probe"]
    kinds = {key: item["kind"] for key, item in probe["batches"][0]["inputs"]["items"].items()}
    assert kinds == {"user": "ragged", "item": "tensor", "tags": "sparse"}
    with np.load(towers / probe["file"]) as arrays:
        values = probe["batches"][0]["inputs"]["items"]["user"]["values"]["array"]
        np.testing.assert_array_equal(arrays[values], visits()[0][0]["user"].values)


def test_both_signatures_are_certified(towers: Path, verify: Any) -> None:
    answer = verify("reload", towers)
    assert answer["ok"], answer
    model = answer["report"]["models"]["model"]
    assert model["keras"]["outputs"]["bit_equal"] is True
    assert model["saved_model"]["signatures"] == ["serving_default", "serving_flat"]
    assert model["saved_model"]["batches"] == 4, "two probes, through each"
    assert answer["report"]["tapeworks_modules"] == []
    answer = verify("certify", towers)
    assert answer["ok"], answer
    assert answer["report"]["step"]["max_abs_difference"] == 0.0


def test_a_server_of_dense_tensors_takes_the_parts_by_name(towers: Path) -> None:
    loaded = tf.saved_model.load(str(towers / "saved_model" / "model" / "1"))
    flat = loaded.signatures["serving_flat"]
    names = set(flat.structured_input_signature[1])
    tags = {"tags_indices", "tags_values", "tags_dense_shape"}
    assert names == {"item", "user_values", "user_row_splits"} | tags, "sparse columns are never made dense"
    (x, _) = visits()[0]
    given = {"item": x["item"], "user_values": x["user"].values, "user_row_splits": x["user"].row_splits}
    given |= {"tags_indices": x["tags"].indices, "tags_values": x["tags"].values}
    outputs = flat(**given, tags_dense_shape=x["tags"].dense_shape)
    np.testing.assert_allclose(outputs["output_0"], loaded.serving_default(x), rtol=1e-6)
    with pytest.raises(tf.errors.InvalidArgumentError):
        flat(
            **{**given, "user_row_splits": tf.constant([0, 5, 2, 2, 2, 2, 2], tf.int64)}, tags_dense_shape=[6, COLUMNS]
        )


@pytest.mark.slow
def test_raw_sentences_come_back_with_their_vocabulary(acme: Path, tmp_path: Path, verify: Any) -> None:
    config = {"outputs": CLASSES, "vocabulary": ["good", "bad"], "dimension": 4, "pooling": "attention"}
    spec = job(model={"component": "text_classifier", "config": config}, metrics=[])
    spec["loss"] = {"component": "keras/SparseCategoricalCrossentropy", "config": {"from_logits": True}}
    data = [(np.array(["Good!", "so bad", ""] * 2, dtype=object), y[:6]) for _, y in batches(3)]
    element = (tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.int64))
    assembly = trained(spec, element=element, data=data)
    folder = exported(assembly, tmp_path / "bundle", data=data).folder
    answer = verify("reload", folder)
    assert answer["ok"], answer
    assert answer["report"]["models"]["model"]["saved_model"]["signatures"] == ["serving_default"]
    serve = tf.saved_model.load(str(folder / "saved_model" / "model" / "1")).signatures["serving_default"]
    expected = assembly.models["model"](tf.constant(["bad", "Bad..."]), training=False)
    np.testing.assert_allclose(serve(x=tf.constant(["bad", "Bad..."]))["output_0"], expected, rtol=1e-6)


# ── memory ───────────────────────────────────────────────────────────────────────────────────────

WIDE = """
import sys


def main(root, folder):
    sys.path.insert(0, root)
    import resource
    from pathlib import Path
    from tapeworks.components.loading import load_components
    from tests.support.trainings import attempt, job

    load_components([Path(folder) / "wide.py"])

    def run(columns):
        source = {"component": "lab/Wide", "config": {"columns": columns}}
        layers = [{"component": "sparse_dense", "config": {"units": 3}}]
        model = {"component": "sequential", "config": {"layers": layers}}
        data = {"source": source, "pipeline": [{"op": "batch", "batch_size": 2048}]}
        frames = attempt(job(data=data, model=model, export={}), Path(folder) / str(columns))
        return frames[-1], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    first, before = run(100)
    last, after = run(100_000)
    return {"outcomes": [first["outcome"], last["outcome"]], "failure": last.get("failure"), "grew": after - before}
"""
SOURCE = """
import numpy as np
import tensorflow as tf
from tapeworks import Source, component


@component("lab/Wide")
class Wide(Source):
    def __init__(self, columns: int) -> None:
        self.columns = columns

    def dataset(self):
        rows = np.repeat(np.arange(4096), 10)
        cells = np.stack([rows, np.random.default_rng(0).integers(0, self.columns, rows.size)], axis=1)
        cells = np.unique(cells, axis=0)
        x = tf.SparseTensor(cells, np.ones(len(cells), "float32"), [4096, self.columns])
        return tf.data.Dataset.from_tensor_slices((x, np.arange(4096) % 3))
"""


def test_a_hundred_thousand_sparse_columns_are_never_dense(tmp_path: Path, fork: Any) -> None:
    (tmp_path / "wide.py").write_text(SOURCE)
    (tmp_path / "script.py").write_text(WIDE)
    root = str(ROOT)
    answer = fork(f"{tmp_path / 'script.py'}:main", bar=False, root=root, folder=str(tmp_path))
    assert answer["ok"], answer
    report = answer["report"]
    assert report["outcomes"] == ["succeeded", "succeeded"], report
    assert report["grew"] < 150, "MB of peak resident memory; one dense batch is 819"
