"""Folders of Hugging Face's `datasets` and of TFDS as they lie on disk: values, class names, shapes, images."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tapeworks.client.assets import format_of
from tapeworks.schemas.assets import DataFormat
from tapeworks.spec.parsing import parse_spec
from tests.support.job_files import build_data, set_uploads
from tests.workers.components.conftest import columns_of, fails_at_once, source
from tests.workers.engine.data.test_preview import looked

SAVE = """
import sys, datasets, numpy as np
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, Image, Sequence, Value
n = 30
pixels = np.random.default_rng(0).integers(0, 256, (n, 6, 5, 3)).astype("uint8")
features = Features({"label": ClassLabel(names=["neg", "pos", "other"]), "text": Value("string"), "image": Image(),
                     "grid": Array2D((2, 3), "float32"), "ids": Sequence(Value("int32")), "score": Value("float64")})
import PIL.Image
rows = {"label": [i % 3 for i in range(n)], "text": [f"t{i}" for i in range(n)],
        "image": [PIL.Image.fromarray(one) for one in pixels],
        "grid": [np.full((2, 3), i, "float32") for i in range(n)],
        "ids": [list(range(i % 4)) for i in range(n)], "score": [i / 7 for i in range(n)]}
whole = Dataset.from_dict(rows, features=features)
split = DatasetDict({"train": whole.select(range(20)), "test": whole.select(range(20, 30))})
split.save_to_disk(sys.argv[1], num_shards={"train": 2, "test": 1})
split["train"].to_parquet(sys.argv[1] + "/train.parquet")
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DatasetDict by `save_to_disk`, in a process of its own: the library registers Arrow types."""
    folder = tmp_path_factory.mktemp("hf") / "reviews"
    subprocess.run([sys.executable, "-c", SAVE, str(folder)], check=True, capture_output=True, timeout=120)
    return folder


def given(folder: Path) -> None:
    set_uploads([{"id": "ds_1", "path": str(folder), "format": "parquet"}])


def plain_value(leaf: tf.Tensor) -> Any:
    return np.asarray(leaf).tolist()


def test_a_saved_dataset_reads_as_it_was_written(saved: Path) -> None:
    given(saved)
    train = source("parquet", files="ds_1/train/*.arrow", named=True, features=["text", "grid", "ids", "score"],
                   labels="label")  # fmt: skip
    assert train.class_names() == ["neg", "pos", "other"]
    spec = train.dataset().element_spec[0]
    assert (spec["grid"].shape, spec["ids"].dtype) == ([2, 3], tf.int32)
    elements = list(train.dataset())
    assert [int(y) for _, y in elements] == [i % 3 for i in range(20)]
    for i, (x, _) in enumerate(elements):
        assert (x["text"].numpy(), x["ids"].numpy().tolist()) == (f"t{i}".encode(), list(range(i % 4)))
        assert x["grid"].numpy().tolist() == np.full((2, 3), i).tolist()
        assert x["score"].numpy() == np.float32(i / 7)
    test = source("parquet", files="ds_1/test/*.arrow", features="score")
    assert [float(x) for x in test.dataset()] == [float(np.float32(i / 7)) for i in range(20, 30)]


def test_a_job_takes_the_names_of_the_classes(saved: Path) -> None:
    given(saved)

    def data(part: str) -> dict[str, Any]:
        return {
            "component": "parquet",
            "config": {"files": f"ds_1/{part}/*.arrow", "features": ["score"], "labels": "label"},
        }

    spec = parse_spec({
        "data": {"source": data("train"), "validation": data("test"), "pipeline": [{"op": "batch", "batch_size": 5}]},
        "model": {"component": "mlp", "config": {"outputs": 3}}, "optimizer": "keras/Adam",
        "loss": "keras/SparseCategoricalCrossentropy",
    })  # fmt: skip
    built = build_data(spec)
    assert built.class_names == ["neg", "pos", "other"]
    assert built.absent_classes == []


def test_parquet_of_the_library_says_the_same(saved: Path) -> None:
    given(saved)
    config: dict[str, Any] = {"named": True, "features": ["text", "score", "grid"], "labels": "label"}
    arrow = source("parquet", files="ds_1/train/*.arrow", **config)
    parquet = source("parquet", files="ds_1/train.parquet", **config)
    assert parquet.class_names() == arrow.class_names()
    assert parquet.dataset().element_spec == arrow.dataset().element_spec
    plain = [tf.nest.map_structure(plain_value, one) for one in arrow.dataset()]
    assert [tf.nest.map_structure(plain_value, one) for one in parquet.dataset()] == plain


def test_embedded_images_are_decoded(saved: Path) -> None:
    from tapeworks.spec.references import Kind
    from tapeworks_workers.engine.factory.factory import build

    given(saved)
    decode = build({"component": "decode_image", "config": {}}, Kind.TRANSFORM, pointer="")
    images = source("parquet", files="ds_1/train/*.arrow", features="image", labels="label").dataset()
    found = np.stack([x.numpy() for x, _ in images.map(decode)])
    pixels = np.random.default_rng(0).integers(0, 256, (30, 6, 5, 3)).astype("uint8")[:20]
    np.testing.assert_allclose(found, pixels / 255, atol=1e-6)
    sized = build({"component": "decode_image", "config": {"size": [4, 4], "channels": 1}}, Kind.TRANSFORM, pointer="")
    assert images.map(sized).element_spec[0].shape == [4, 4, 1]
    deep = np.array([[0, 1, 40_000, 65_535]], "uint16")
    content = io.BytesIO()
    Image.fromarray(deep).save(content, "PNG")
    grey = build({"component": "decode_image", "config": {"channels": 1}}, Kind.TRANSFORM, pointer="")
    np.testing.assert_allclose(grey(tf.constant(content.getvalue()))[..., 0], deep / 65_535, atol=1e-7)


def test_an_image_that_is_a_path_alone_is_refused_with_its_row(root: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.array([{"bytes": b"x", "path": None}, {"bytes": None, "path": "a.png"}], kind)
    pq.write_table(pa.table({"image": rows}), root / "a.parquet")
    one = source("parquet", files="a.parquet", features="image")
    fails_at_once(one, r"a\.parquet, row 2: column 'image' has a path and no bytes; embed the files")


def test_the_folder_is_a_dataset_as_it_lies_there(saved: Path) -> None:
    told = looked(saved / "train", "parquet")
    assert (told["rows"], told["files"], told["left_out"]) == (20, 2, {})
    assert {one["name"]: (one["dtype"], one["shape"]) for one in told["columns"]} == {
        "label": ("int64", []), "text": ("string", []), "image": ("string", []), "grid": ("float32", [2, 3]),
        "ids": ("int32", [None]), "score": ("float32", []),
    }  # fmt: skip
    assert "column 'label' numbers the classes neg, pos, other" in told["notes"]


# ── TFDS ──

FEATURES = {
    "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
    "featuresDict": {
        "features": {
            "image": {
                "pythonClassName": "tensorflow_datasets.core.features.image_feature.Image",
                "image": {"shape": {"dimensions": ["4", "3", "1"]}, "dtype": "uint8", "encodingFormat": "png"},
            },
            "label": {
                "pythonClassName": "tensorflow_datasets.core.features.class_label_feature.ClassLabel",
                "classLabel": {"numClasses": "3"},
            },
            "name": {"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text", "text": {}},
            "grid": {
                "pythonClassName": "tensorflow_datasets.core.features.tensor_feature.Tensor",
                "tensor": {"shape": {"dimensions": ["2", "2"]}, "dtype": "float32", "encoding": "none"},
            },
            "ids": {
                "pythonClassName": "tensorflow_datasets.core.features.sequence_feature.Sequence",
                "sequence": {
                    "feature": {
                        "pythonClassName": "tensorflow_datasets.core.features.scalar.Scalar",
                        "tensor": {"shape": {}, "dtype": "int32", "encoding": "none"},
                    },
                    "length": "-1",
                },
            },
            "meta": {"featuresDict": {"features": {"age": {"tensor": {"shape": {}, "dtype": "uint8"}}}}},
        }
    },
}


def write_tfds(folder: Path) -> None:
    """Two shards as TFDS writes them, with their descriptions."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "features.json").write_text(json.dumps(FEATURES))
    (folder / "dataset_info.json").write_text(json.dumps({"name": "toy", "fileFormat": "tfrecord", "splits": []}))
    (folder / "label.labels.txt").write_text("zebra\nant\nbee\n")
    for shard in range(2):
        with tf.io.TFRecordWriter(str(folder / f"toy-train.tfrecord-0000{shard}-of-00002")) as out:
            for n in range(shard * 5, shard * 5 + 5):
                png = tf.io.encode_png(tf.fill([4, 3, 1], tf.cast(n, tf.uint8))).numpy()
                values = {
                    "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[png])),
                    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[n % 3])),
                    "name": tf.train.Feature(bytes_list=tf.train.BytesList(value=[f"n{n}".encode()])),
                    "grid": tf.train.Feature(float_list=tf.train.FloatList(value=[n, 0, 0, 1])),
                    "ids": tf.train.Feature(int64_list=tf.train.Int64List(value=range(n % 3))),
                    "meta/age": tf.train.Feature(int64_list=tf.train.Int64List(value=[n + 20])),
                }
                out.write(tf.train.Example(features=tf.train.Features(feature=values)).SerializeToString())


def test_a_tfds_folder_needs_no_schema(root: Path) -> None:
    write_tfds(root / "toy")
    one = source("tfrecord", files="toy/*train.tfrecord*", labels="label")
    assert one.class_names() == ["zebra", "ant", "bee"]
    elements = list(one.dataset())
    assert [int(y) for _, y in elements] == [n % 3 for n in range(10)]
    for n, (x, _) in enumerate(elements):
        assert sorted(x) == ["grid", "ids", "image", "meta/age", "name"]
        assert (x["name"].numpy(), x["ids"].numpy().tolist(), int(x["meta/age"])) == (
            f"n{n}".encode(),
            list(range(n % 3)),
            n + 20,
        )
        assert x["grid"].numpy().tolist() == [[n, 0], [0, 1]]
        assert int(tf.io.decode_png(x["image"])[0, 0, 0]) == n


def test_a_tfds_folder_is_described_with_its_shapes(root: Path) -> None:
    write_tfds(root / "toy")
    told = looked(root / "toy", "tfrecord")
    assert (told["rows"], told["left_out"]) == (10, {})
    shapes = {one["name"]: one["shape"] for one in told["columns"]}
    assert shapes == {"grid": [2, 2], "ids": [None], "image": [], "label": [], "meta/age": [], "name": []}


def test_a_push_knows_the_format_of_both_folders(saved: Path, root: Path) -> None:
    write_tfds(root / "toy")
    assert (format_of(saved), format_of(root / "toy")) == (DataFormat.PARQUET, DataFormat.TFRECORD)


def test_features_that_are_not_read_are_named(root: Path) -> None:
    write_tfds(root / "toy")
    FEATURES["featuresDict"]["features"]["clip"] = {"pythonClassName": "x.video_feature.Video", "video": {}}  # type: ignore[index]
    try:
        (root / "toy" / "features.json").write_text(json.dumps(FEATURES))
    finally:
        del FEATURES["featuresDict"]["features"]["clip"]  # type: ignore[attr-defined]
    assert any("the feature 'clip' is Video" in note for note in looked(root / "toy", "tfrecord")["notes"])


def test_records_without_a_description_need_a_schema(root: Path) -> None:
    from tapeworks.errors import JobFailure

    write_tfds(root / "toy")
    (root / "toy" / "features.json").unlink()
    with pytest.raises(JobFailure, match=r"a schema is needed, since no features\.json of TFDS lies beside"):
        source("tfrecord", files="toy/*tfrecord*", labels="label")


def test_columns_of_integers_alone_have_no_names(root: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"n": [1, 2]}), root / "a.parquet")
    one = source("parquet", files="a.parquet", features="n", labels="n")
    assert one.class_names() is None
    assert columns_of(source("parquet", files="a.parquet", named=True)) == {"n": [1, 2]}
