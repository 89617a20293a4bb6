"""Whole architectures, as model libraries write them: admitted, trained, exported, and reloaded with a certificate."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tapeworks
from tapeworks.components.loading import load_components
from tapeworks.components.registry import registry
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.admission.admission import admit
from tests.support.paths import LAB
from tests.workers.engine.conftest import exported, job, trained

load_components([LAB / "architectures.py"])
from architectures import BertBackbone, MobileNet, TextClassifier  # noqa: E402  # registered by their file's own name

FROM_LOGITS = {"component": "keras/SparseCategoricalCrossentropy", "config": {"from_logits": True}}


def tokens(random: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
    ids = random.integers(1, 30, (rows, 6)).astype(np.int32)
    mask = (np.arange(6) < random.integers(2, 7, (rows, 1))).astype(np.int32)
    return {"token_ids": ids, "padding_mask": mask}


def image(random: np.random.Generator, rows: int) -> np.ndarray:
    return random.random((rows, 16, 16, 3), np.float32)


def noisy(random: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
    return {"latents": image(random, rows), "timestep": random.random((rows, 1), np.float32)}


def batches(name: str, dtype: str = "float32") -> list[Any]:
    random, data = np.random.default_rng(0), []
    for rows in (4, 4, 2):
        y: Any = random.integers(0, 3, rows)
        match name:
            case "zoo/TextClassifier":
                x: Any = tokens(random, rows)
            case "zoo/CausalLM":
                x = tokens(random, rows)["token_ids"]
                y = np.roll(x, -1, axis=1).astype(np.int64)
            case "zoo/UNet":
                x = noisy(random, rows)
                y = image(random, rows)
            case _:
                x = image(random, rows)
        data.append(tf.nest.map_structure(lambda a: a.astype(dtype) if a.dtype == np.float32 else a, (x, y)))
    return data


def element(data: Any) -> Any:
    return tf.nest.map_structure(lambda a: tf.TensorSpec([None, *a.shape[1:]], a.dtype), data[0])


def certified(name: str, config: dict[str, Any], folder: Path, verify: Any, precision: str = "float32") -> None:
    data = batches(name, "float64" if precision == "float64" else "float32")
    loss = "keras/MeanSquaredError" if name == "zoo/UNet" else FROM_LOGITS
    model = {"component": name, "config": config}
    spec = job(model=model, loss=loss, metrics=[], training={"precision": precision})
    draft = exported(trained(spec, element=element(data), data=data), folder / "bundle", data=data)
    answer = verify("reload", draft.folder)
    assert answer["ok"], answer
    report = answer["report"]["models"]["model"]
    assert report["keras"]["outputs"]["bit_equal"] is True
    assert report["load_model"]["outputs"]["bit_equal"] is True
    answer = verify("certify", draft.folder)
    assert answer["ok"], answer
    assert answer["report"]["loaded"] == ["model"]


ARCHITECTURES = [
    ("zoo/TextClassifier", {"classes": 3, "backbone": {"component": "zoo/BertBackbone", "config": {"blocks": 1}}}),
    ("zoo/CausalLM", {"width": 4, "blocks": 1}),
    ("zoo/ViT", {"patch": 8, "width": 4}),
    ("zoo/ResNet", {"filters": [4, 6], "blocks": [1, 1]}),
    ("zoo/UNet", {"widths": [4, 6]}),
    ("zoo/MobileNet", {"widths": [4]}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "config"), ARCHITECTURES, ids=[name for name, _ in ARCHITECTURES])
def test_an_architecture_comes_back_with_a_certificate(
    acme: Path, tmp_path: Path, verify: Any, name: str, config: dict[str, Any]
) -> None:
    certified(name, config, tmp_path, verify)


@pytest.mark.thorough
@pytest.mark.parametrize("precision", ["float64", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize(("name", "config"), ARCHITECTURES, ids=[name for name, _ in ARCHITECTURES])
def test_an_architecture_comes_back_in_every_precision(
    acme: Path, tmp_path: Path, verify: Any, name: str, config: dict[str, Any], precision: str
) -> None:
    certified(name, config, tmp_path, verify, precision)


@pytest.mark.slow
def test_every_architecture_is_admitted() -> None:
    components = [one for one in registry if one.name.startswith("zoo/") and one.kind is Kind.MODEL]
    verdicts = {one.name: getattr(admit(one), "reason", None) for one in components}
    assert len(verdicts) == 7
    assert verdicts == dict.fromkeys(verdicts)


@pytest.mark.parametrize("make", [lambda: TextClassifier(BertBackbone(blocks=1), 2), lambda: MobileNet([4])])
def test_a_compiled_architecture_is_named_in_a_spec(make: Any) -> None:
    model = make()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = {"source": "digits", "pipeline": [{"op": "batch", "batch_size": 32}]}
    written = tapeworks.from_keras(model, data=data).models["model"]
    assert written.component == f"zoo/{type(model).__name__}"
    assert "made_under" not in written.config
