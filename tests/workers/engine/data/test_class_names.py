"""One list of classes for a job: of folders that lack a class, of several sources, as lineage and bundle name it."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.engine.data import class_names, source_lineage
from tapeworks_workers.engine.data.pipeline import Data, Split
from tests.support.job_files import build_data, set_data_roots
from tests.support.trainings import BATCH, attempt, job
from tests.workers.engine.test_runner import events, records

SHADES = {"cat": 40, "dog": 120, "rabbit": 220}


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A data root with images by split and class; a class has one shade."""
    folder = tmp_path / "data"
    for split, names, count in (("train", SHADES, 6), ("val", ["dog", "rabbit"], 3)):
        for name in names:
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                shade = np.full((4, 4, 3), SHADES[name], "uint8")
                Image.fromarray(shade).save(folder / split / name / f"{index}.png")
    set_data_roots([folder])
    yield folder
    set_data_roots([])


def images(files: str, **config: Any) -> dict[str, Any]:
    return {"component": "images", "config": {"files": files, **config}}


def combined(component: str, sources: Any) -> dict[str, Any]:
    return {"component": component, "config": {"sources": sources}}


def data_of(source: Any, **splits: Any) -> Data:
    return build_data(job(data={"source": source, "pipeline": [BATCH], **splits}))


def shades(split: Split | None) -> dict[int, set[int]]:
    """Label → shades of its images."""
    assert split is not None
    found: dict[int, set[int]] = {}
    for x, y in split.dataset(0):
        for image, label in zip(x.numpy(), y.numpy(), strict=True):
            found.setdefault(int(label), set()).add(round(float(image.max()) * 255))
    return found


def refused(says: str, source: Any, **splits: Any) -> None:
    with pytest.raises(JobFailure, match=says) as caught:
        data_of(source, **splits)
    assert caught.value.code is FailureCode.INVALID_DATA
    assert caught.value.hint


def test_a_split_that_lacks_a_class_is_numbered_by_the_training_split(root: Path) -> None:
    data = data_of(images("train/*/*"), validation=images("val/*/*"), test=images("val/dog/*"))
    assert data.class_names == ["cat", "dog", "rabbit"]
    assert shades(data.training) == {0: {40}, 1: {120}, 2: {220}}
    assert shades(data.validation) == {1: {120}, 2: {220}}
    assert shades(data.test) == {1: {120}}
    (root / "new" / "bird").mkdir(parents=True)
    (root / "train" / "cat" / "0.png").rename(root / "new" / "bird" / "0.png")
    refused(r"/data/validation: the validation data holds 'bird'; the training split has 'cat', 'dog', 'rabbit'",
            images("train/*/*"), validation=images("new/*/*"))  # fmt: skip


@pytest.mark.usefixtures("root")
def test_a_list_in_the_config_numbers_all_splits() -> None:
    order = ["rabbit", "bird", "dog", "cat"]
    data = data_of(images("train/*/*", classes=order), validation=images("val/*/*"))
    assert data.class_names == order
    assert shades(data.validation) == {0: {220}, 2: {120}}
    same = images("val/*/*", classes=order)
    assert shades(data_of(images("train/*/*", classes=order), validation=same).validation) == {0: {220}, 2: {120}}
    refused(r"/data/validation/config/classes: 'dog', 'rabbit' is not the list of the training split",
            images("train/*/*"), validation=images("val/*/*", classes=["dog", "rabbit"]))  # fmt: skip
    refused(r"/data/source: the training data holds 'cat'; the list of classes has 'dog', 'rabbit'",
            images("train/*/*", classes=["dog", "rabbit"]))  # fmt: skip


@pytest.mark.parametrize("component", ["concatenate", "sample"])
@pytest.mark.usefixtures("root")
def test_sources_one_after_the_other_share_a_list(component: str) -> None:
    folders = [images(f"train/{name}/*") for name in ("dog", "cat")]
    data = data_of(combined(component, folders), validation=images("val/dog/*"))
    assert data.class_names == ["cat", "dog"]
    assert shades(data.training) == {0: {40}, 1: {120}}
    assert shades(data.validation) == {1: {120}}
    given = [images("train/dog/*", classes=["dog", "cat"]), images("train/cat/*", classes=["cat", "dog"])]
    refused("/data/source/config/sources/1/config/classes: 'cat', 'dog' is not the list", combined(component, given))


@pytest.mark.usefixtures("root")
def test_branches_of_zip_have_lists_of_their_own() -> None:
    left, right = images("train/[cd]*/*"), images("train/[dr]*/*")
    data = data_of(combined("zip", {"a": left, "b": right}))
    assert data.class_names == {"a": ["cat", "dog"], "b": ["dog", "rabbit"]}


def test_a_single_class_is_refused(root: Path) -> None:
    (root / "cat").mkdir()
    (root / "train" / "cat").rename(root / "cat" / "train")
    refused("/data/source: every file lies in a folder named 'train', so all labels would be 0", images("cat/train/*"))
    refused("folder named 'dog'", combined("concatenate", [images("train/dog/*"), images("val/dog/*")]))
    data = data_of(images("cat/train/*", labels=None))
    assert data.class_names is None
    assert data_of(images("cat/train/*", classes=["train"])).class_names == ["train"]


def test_texts_by_folder_share_a_list_too(root: Path) -> None:
    for place in ("t/neg", "t/pos", "v/pos"):
        (root / place).mkdir(parents=True)
        (root / place / "1.txt").write_text("good film\n")
    text = {"component": "text", "config": {"labels": "folder"}}
    sources = [{**text, "config": {**text["config"], "files": files}} for files in ("t/*/*", "v/*/*")]
    data = data_of(sources[0], validation=sources[1])
    assert data.class_names == ["neg", "pos"]
    assert data.validation is not None
    ((_, y),) = data.validation.dataset(0)
    assert y.numpy().tolist() == [1]


MODEL = {
    "component": "sequential",
    "config": {"layers": [{"component": "keras/GlobalAveragePooling2D"},
                          {"component": "keras/Dense", "config": {"units": 3, "kernel_initializer": "zeros"}}]},
}  # fmt: skip


@pytest.mark.slow
def test_lineage_event_and_bundle_name_the_classes_and_what_was_skipped(root: Path, tmp_path: Path) -> None:
    broken = root / "train" / "dog" / "3.png"
    broken.write_bytes(broken.read_bytes()[:50])
    source = images("train/*/*", on_error="skip")
    spec = job(
        data={"source": source, "validation": images("val/*/*"), "pipeline": [BATCH]}, model=MODEL,
        optimizer={"component": "keras/SGD", "config": {"learning_rate": 20.0}}, training={"epochs": 80},
        metrics=["keras/SparseCategoricalAccuracy"],
    )  # fmt: skip
    frames = attempt(spec, tmp_path / "job", data_roots=[root])
    finish = frames[-1]
    assert finish["outcome"] == "succeeded", finish["failure"]
    assert finish["metrics"]["val_sparse_categorical_accuracy"] == 1.0
    names = ["cat", "dog", "rabbit"]
    assert events(frames, "class_names") == [{"class_names": names}]
    assert {"message": "the validation data has no example of 'cat'"} in events(frames, "note")
    (lineage,) = [facts["lineage"] for facts in records(frames, "facts") if "lineage" in facts]
    assert lineage["class_names"] == names
    assert [reason.split(" ")[0] for reason in lineage["sources"]["training"]["skipped"]] == ["dog/3.png"]
    (told,) = [event for event in events(frames, "diagnostic") if event["code"] == "files_skipped"]
    assert told["message"].startswith("images: 1 files cannot be read and are skipped: dog/3.png cannot be decoded")
    (manifest,) = (tmp_path / "job").rglob("manifest.json")
    held = json.loads(manifest.read_text())
    assert held["class_names"] == names
    assert held["models"]["model"]["classify"] == {"activation": "softmax", "outputs": "one_each"}
    served = tf.saved_model.load(str(manifest.parent / "saved_model" / "model" / "1")).signatures["classify"]
    answers = served(x=tf.fill([3, 4, 4, 3], 220 / 255))
    assert answers["class"].numpy().tolist() == [b"rabbit"] * 3


def test_names_too_long_for_a_job_object_are_counted() -> None:
    few, many = ["cat", "dog"], [f"{number:04}" * 8 for number in range(3000)]
    assert class_names.reported(few) == few
    assert class_names.reported(many) == 3000
    assert class_names.reported({"a": few, "b": many}) == {"a": 2, "b": 3000}


@pytest.mark.slow
def test_a_file_damaged_inside_ends_the_job_as_invalid_data_with_its_name(root: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype("uint8")
    path = root / "train" / "dog" / "3.png"
    Image.fromarray(pixels).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    for pipeline in ([BATCH], [{"op": "cache"}, {"op": "shuffle", "buffer_size": 5}, BATCH]):
        spec = job(data={"source": images("train/*/*"), "pipeline": pipeline}, model=MODEL, export=None)
        failure = attempt(spec, tmp_path / "job", data_roots=[root])[-1]["failure"]
        assert failure["code"] == "invalid_data"
        assert failure["message"].startswith("dog/3.png cannot be decoded"), failure
        assert "on_error" in failure["hint"]
    split = {"source": images("train/*/*"), "validation": 0.2, "pipeline": [BATCH]}
    failure = attempt(job(data=split, model=MODEL, export=None), tmp_path / "job", data_roots=[root])[-1]["failure"]
    assert failure["message"].startswith("dog/3.png cannot be decoded"), failure


@pytest.mark.usefixtures("root")
def test_the_lineage_of_many_files_is_cut_and_stands_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = data_of(images("train/*/*")).sources["training"]
    assert len(whole["files"]) == 18
    assert "file_count" not in whole
    monkeypatch.setattr(source_lineage, "LISTED_BYTES", 500)
    cut = data_of(images("train/*/*")).sources["training"]
    assert 0 < len(cut["files"]) < 6
    assert cut["files"] == whole["files"][: len(cut["files"])]
    lines = "".join(f"{one['sha256']}  {one['name']}\n" for one in whole["files"])
    assert (cut["file_count"], cut["sha256"]) == (18, hashlib.sha256(lines.encode()).hexdigest())
