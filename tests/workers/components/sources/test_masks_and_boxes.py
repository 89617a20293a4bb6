"""What lies beside images: masks and boxes; images inside Parquet and TFRecord. Compared with Pillow and pandas."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from PIL import Image

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.engine.data.checks import broken_files
from tapeworks_workers.engine.diagnostics.classify import classify
from tests.workers.components.conftest import source
from tests.workers.components.sources.test_folders import feature

INVALID = FailureCode.INVALID_DATA
RANDOM = np.random.default_rng(11)
PIXELS = RANDOM.integers(0, 256, (4, 6, 8, 3)).astype("uint8")
CLASSES = RANDOM.integers(0, 4, (4, 6, 8)).astype("uint8")


def read(component: str, config: dict[str, Any]) -> None:
    one = source(component, **config)
    with broken_files.named([one]):
        list(one.dataset())


def fails(says: str, component: str = "images", **config: Any) -> None:
    with pytest.raises((JobFailure, tf.errors.OpError)) as caught:
        read(component, config)
    failure = classify(caught.value)
    assert failure.code is (FailureCode.COMPONENT_ERROR if "could not be built" in failure.message else INVALID)
    assert says in failure.message


# ── masks ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def photos(root: Path) -> Path:
    """Four images, and a mask of each: grey, with a palette, of one bit, of 16 bits."""
    (root / "photos").mkdir()
    (root / "masks").mkdir()
    palette = Image.fromarray(CLASSES[1])
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    of_one_bit, of_16_bits = Image.fromarray(CLASSES[2] > 1), Image.fromarray(CLASSES[3].astype("uint16") * 300)
    for index, mask in enumerate([Image.fromarray(CLASSES[0]), palette, of_one_bit, of_16_bits]):
        Image.fromarray(PIXELS[index]).save(root / "photos" / f"{index}.webp", lossless=True)
        mask.save(root / "masks" / f"{index}.png")
    return root


MASKED = {"files": "photos/*", "masks": "masks/*.png"}


def test_masks_hold_their_classes_as_they_are(photos: Path) -> None:
    one = source("images", **MASKED)
    ((x, y),) = one.dataset().batch(4)
    np.testing.assert_allclose(x, PIXELS / np.float32(255), rtol=1e-6)
    expected = [CLASSES[0], CLASSES[1], CLASSES[2] > 1, CLASSES[3].astype(int) * 300]
    np.testing.assert_array_equal(y[..., 0], np.stack(expected))
    assert one.dataset().element_spec[1] == tf.TensorSpec([6, 8, 1], tf.int32)
    assert [path.name for path in one.files()][-1] == "3.png"
    assert one.class_names() is None


@pytest.mark.parametrize("size", [[3, 4], [12, 16], [5, 5]])
def test_masks_are_resized_to_the_nearest_pixel_as_by_pillow(photos: Path, size: list[int]) -> None:
    ((x, y),) = source("images", **MASKED, size=size).dataset().batch(4)
    assert x.shape == (4, *size, 3)
    theirs = np.asarray(Image.fromarray(CLASSES[0]).resize(size[::-1], Image.Resampling.NEAREST))
    np.testing.assert_array_equal(y[0, ..., 0], theirs)
    assert set(np.unique(y[1])) <= {0, 1, 2, 3}, "no class in between"


def test_masks_that_do_not_fit_are_named(photos: Path) -> None:
    fails("1 of 4 images have no mask of the same name: photos/3.webp", **{**MASKED, "masks": "masks/[012].png"})
    Image.fromarray(CLASSES[0][:3]).save(photos / "masks" / "1.png")
    fails("masks/1.png has another size than its image", **MASKED)
    Image.fromarray(PIXELS[1]).save(photos / "masks" / "1.png")
    fails("a mask has one integer for each pixel, and this image is RGB", **MASKED)
    one = source("images", **MASKED, on_error="skip")
    assert len(list(one.dataset())) == 3
    assert "masks/1.png" in one.skipped()[0]
    fails("give masks or table", **MASKED, table="masks/*.png")


def test_masks_in_folders_of_the_same_name(root: Path) -> None:
    for number, place in enumerate(["photos/a/1.png", "photos/b/1.png", "masks/a/1.png", "masks/b/1.png"]):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2), number).save(root / place)
    whole = source("images", files="**/*.png", masks="masks/*/*.png", scale=False)
    assert [(int(x[0, 0, 0]), int(y[0, 0, 0])) for x, y in whole.dataset()] == [(0, 2), (1, 3)]


# ── boxes ────────────────────────────────────────────────────────────────────────────────────────

BOXES = [[[0, 0, 4, 3], [2, 1, 8, 6]], [], [[1, 1, 2, 2]], [[0, 0, 8, 6], [0, 0, 1, 1], [3, 3, 4, 4]]]
NAMES = [["cat", "dog"], [], ["dog"], ["cat", "cat", "bird"]]
NUMBERS = {"bird": 0, "cat": 1, "dog": 2}


@pytest.fixture
def boxed(root: Path) -> Path:
    for index in range(4):
        Image.fromarray(PIXELS[index]).save(root / f"{index}.png")
    rows = [{"file": f"{index}.png", "boxes": BOXES[index], "label": NAMES[index]} for index in (2, 0, 3, 1)]
    (root / "boxes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


BOXED = {"files": "*.png", "table": "boxes.jsonl", "boxes": "boxes"}


def test_boxes_are_ragged_with_a_label_each(boxed: Path) -> None:
    one = source("images", **BOXED)
    assert one.class_names() == ["bird", "cat", "dog"]
    ((x, y),) = one.dataset().ragged_batch(4)
    assert x.shape == (4, 6, 8, 3)
    assert y["boxes"].to_list() == [[list(map(float, box)) for box in boxes] for boxes in BOXES]
    assert y["boxes"].shape.as_list() == [4, None, 4]
    assert y["labels"].to_list() == [[NUMBERS[name] for name in names] for names in NAMES]
    assert y["labels"].dtype == tf.int64


def test_boxes_are_scaled_with_their_image(boxed: Path) -> None:
    ((_, y),) = source("images", **BOXED, size=[12, 4]).dataset().ragged_batch(4)
    wanted = [[[a / 2, b * 2, c / 2, d * 2] for a, b, c, d in boxes] for boxes in BOXES]
    assert y["boxes"].to_list() == wanted
    ((_, y),) = source("images", **BOXED, size=[12, 4], boxes_relative=True).dataset().ragged_batch(4)
    assert y["boxes"].to_list()[0] == [[0, 0, 4, 3], [2, 1, 8, 6]]


def test_boxes_of_a_table_with_a_row_for_each(boxed: Path) -> None:
    lines = [
        f"{index}.png,{','.join(map(str, box))},{7 + number}"
        for index in (0, 2, 3)
        for number, box in enumerate(BOXES[index])
    ]
    (boxed / "boxes.csv").write_text("\n".join(["file,xmin,ymin,xmax,ymax,label", *lines]))
    config = {"files": ["0.png", "[23].png"], "table": "boxes.csv", "boxes": ["xmin", "ymin", "xmax", "ymax"]}
    ((_, y),) = source("images", **config).dataset().ragged_batch(4)
    assert y["boxes"].to_list() == [BOXES[index] for index in (0, 2, 3)]
    assert y["labels"].to_list() == [[7, 8], [7], [7, 8, 9]]
    fails("1 of 4 files have no row in boxes.csv", **{**config, "files": "*.png"})


def test_boxes_that_do_not_fit_are_named(boxed: Path) -> None:
    for row, says in (
        ({"boxes": [[0, 0, 1]], "label": ["cat"]}, "has four numbers, not [0, 0, 1]"),
        ({"boxes": [[0, 0, 1, 1]], "label": []}, "lists of one length"),
        ({"boxes": [[0, 0, 1, 1]], "label": [None]}, "is None, neither text nor integer"),
    ):
        (boxed / "wrong.jsonl").write_text(json.dumps({"file": "0.png", **row}))
        fails(says, files="0.png", table="wrong.jsonl", boxes="boxes")
    fails("is none of cat", files="0.png", table="boxes.jsonl", boxes="boxes", classes=["cat"])
    fails("boxes come from a table", files="0.png", boxes="boxes")


# ── images inside other files ────────────────────────────────────────────────────────────────────


def encoded(index: int, format: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(PIXELS[index]).save(out, format, **options)
    return out.getvalue()


def pillow(data: bytes, mode: str = "RGB") -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert(mode), np.float32)


KINDS = [encoded(0), encoded(1, "JPEG"), encoded(2, "WEBP", lossless=True), encoded(3, "GIF")]


def parquet(path: Path, images: list[Any], *, struct: bool) -> None:
    rows = [{"bytes": one, "path": f"{index}.png"} for index, one in enumerate(images)] if struct else images
    pq.write_table(pa.table({"image": rows, "label": list(range(len(images)))}), path, row_group_size=2)


def tfrecord(path: Path, images: list[bytes], compression: str = "") -> None:
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for index, one in enumerate(images):
            features = {"image": feature(one), "label": feature(index)}
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


SCHEMA = {"image": {"dtype": "string"}, "label": {"dtype": "int64"}}


@pytest.mark.parametrize("held", ["struct", "binary", "tfrecord", "tfrecord.gz"])
def test_images_inside_other_files_are_those_of_pillow(root: Path, held: str) -> None:
    if "tfrecord" in held:
        tfrecord(root / "d.tfrecord", KINDS, "GZIP" if held.endswith("gz") else "")
        config: dict[str, Any] = {"component": "tfrecord", "files": "d.tfrecord", "schema": SCHEMA}
    else:
        parquet(root / "d.parquet", KINDS, struct=held == "struct")
        config = {"component": "parquet", "files": "d.parquet"}
    component = config.pop("component")
    one = source(component, **config, features="image", labels="label", images={"image": {}})
    ((x, y),) = one.dataset().batch(4)
    np.testing.assert_array_equal(x, np.stack([pillow(data) for data in KINDS]) / np.float32(255))
    assert y.numpy().tolist() == [0, 1, 2, 3]
    options = {"size": [3, 4], "channels": 1, "scale": False}
    named = {} if component == "tfrecord" else {"named": True}
    one = source(component, **config, **named, features=["image", "label"], images={"image": options})
    ((x),) = one.dataset().batch(4)
    assert x["image"].shape == (4, 3, 4, 1)
    grey = tf.image.resize(pillow(KINDS[0], "L")[..., None], [3, 4], antialias=True)
    np.testing.assert_allclose(x["image"][0], grey, atol=1e-3)
    assert x["label"].numpy().tolist() == [0, 1, 2, 3]


def test_a_dataset_that_hugging_face_wrote_is_what_pandas_reads(root: Path) -> None:
    parquet(root / "d.parquet", KINDS, struct=True)
    frame = pd.read_parquet(root / "d.parquet")
    ((x, _),) = (
        source("parquet", files="d.parquet", features="image", labels="label", images={"image": {}}).dataset().batch(4)
    )
    np.testing.assert_array_equal(x, np.stack([pillow(one["bytes"]) for one in frame["image"]]) / np.float32(255))
    described = {one.name: one for one in source("parquet", files="d.parquet", named=True).describe()}
    assert described["image"].dtype == "string", "without the option, the bytes of the file"


def test_a_broken_image_inside_another_file_is_named(root: Path) -> None:
    images = [KINDS[0]] * 5 + [KINDS[0][:60]] + [KINDS[0]]
    parquet(root / "d.parquet", images, struct=True)
    config = {"features": "image", "labels": "label", "images": {"image": {}}}
    fails("d.parquet, row 6: the image in 'image' cannot be decoded", component="parquet", files="d.parquet", **config)
    tfrecord(root / "d.tfrecord", images)
    records = {"component": "tfrecord", "files": "d.tfrecord", "schema": SCHEMA, **config}
    fails("d.tfrecord, record 6: the image in 'image' cannot be decoded", **records)
    del records["component"]
    one = source("tfrecord", **records, on_error="skip")
    assert [int(y) for _, y in one.dataset()] == [0, 1, 2, 3, 4, 6]
    (reason,) = one.skipped()
    assert reason.startswith("d.tfrecord, record 6: the image in 'image'")
    small = io.BytesIO()
    Image.fromarray(PIXELS[0][:3]).save(small, "PNG")
    parquet(root / "d.parquet", [KINDS[0], small.getvalue()], struct=True)
    fails("row 2: the image in 'image' has the size 3 x 8", component="parquet", files="d.parquet", **config)
    parquet(root / "d.parquet", [KINDS[0], None], struct=True)
    fails("holds no bytes, perhaps only the path", component="parquet", files="d.parquet", **config)
    fails("is int64: images are binary", component="parquet", files="d.parquet", images={"label": {}})
    fails("unknown key 'width'", component="parquet", files="d.parquet", images={"image": {"width": 3}})
