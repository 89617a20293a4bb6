"""Verifier B: one more training step from the bundle alone is the step from memory."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tapeworks_workers.engine.checkpoints.snapshot import Snapshot, read_values, write_values
from tests.workers.engine.conftest import ELEMENT, exported, job, trained


def test_one_more_step_with_dropout_is_the_same_step(bundle: Path, verify: Any) -> None:
    answer = verify("certify", bundle)
    assert answer["ok"], answer
    step = answer["report"]["step"]
    assert step["bit_equal"] is True
    assert step["max_abs_difference"] == 0.0
    assert step["logs"] == step["expected_logs"]
    assert "layer acme/Mish@1" in answer["report"]["components"]
    assert "loss focal@1" not in answer["report"]["components"]


@pytest.mark.slow
def test_an_optimizer_that_spans_two_models_goes_on(acme: Path, tmp_path: Path, verify: Any) -> None:
    dense = [{"component": "keras/Dense", "config": {"units": 4}}]
    back = [{"component": "keras/Dense", "config": {"units": 8}}]
    spec = job(
        models={
            "encoder": {"component": "sequential", "config": {"layers": dense}},
            "decoder": {"component": "sequential", "config": {"layers": back}},
        },
        optimizers={"both": "keras/Adam"},
        step={"component": "acme/Autoencoder", "config": {"code": 4}},
    )
    for singular in ("model", "optimizer", "loss", "metrics"):
        del spec[singular]
    draft = exported(trained(spec), tmp_path / "bundle")
    assert draft.models == ["encoder", "decoder"]
    assert not any(entry["compiled"] for entry in draft.manifest["models"].values())

    report = verify("reload", draft.folder)["report"]["models"]
    assert report["encoder"]["saved_model"]["signatures"] == ["reconstruct", "serving_default"]
    assert report["decoder"]["keras"]["outputs"]["bit_equal"] is True
    step = verify("certify", draft.folder)["report"]["step"]
    assert step["bit_equal"] is True


def test_a_lost_seed_is_a_mismatch(bundle: Path, tmp_path: Path, verify: Any) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    state = read_values(folder / "training_state")
    seeds = [name for name in state.values if "seed_generator" in name]
    assert seeds
    changed = {name: np.zeros_like(value) if name in seeds else value for name, value in state.values.items()}
    write_values(Snapshot(changed, state.counters), folder / "training_state")
    failure = verify("certify", folder)["failure"]
    assert failure["code"] == "reload_mismatch"
    assert "'loss'" in failure["message"]


@pytest.mark.slow
def test_a_loss_with_state_of_its_own_is_a_mismatch(acme: Path, tmp_path: Path, verify: Any) -> None:
    draft = exported(trained(job(loss="acme/Moody")), tmp_path / "bundle")
    assert verify("reload", draft.folder)["ok"]
    failure = verify("certify", draft.folder)["failure"]
    assert failure["code"] == "reload_mismatch"


def test_a_component_that_needs_what_the_bundle_lacks_is_told(bundle: Path, tmp_path: Path, verify: Any) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    (folder / "components" / "acme_constants.py").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["components/acme_constants.py"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    failure = verify("reload", folder)["failure"]
    assert failure["code"] == "component_error"
    assert "acme_constants" in failure["message"]


@pytest.mark.slow
def test_double_precision_and_an_eager_plan_are_certified_too(acme: Path, tmp_path: Path, verify: Any) -> None:
    training = {"precision": "float64", "execution": {"plan": "eager"}}
    element = (tf.TensorSpec(ELEMENT[0].shape, tf.float64), ELEMENT[1])
    draft = exported(trained(job(training=training), element=element), tmp_path / "bundle")
    reload = verify("reload", draft.folder)
    assert reload["ok"], reload
    assert reload["report"]["models"]["model"]["keras"]["outputs"]["bit_equal"] is True
    certify = verify("certify", draft.folder)
    assert certify["ok"], certify
    assert certify["report"]["step"]["bit_equal"] is True
