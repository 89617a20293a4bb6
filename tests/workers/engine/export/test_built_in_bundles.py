"""Bundles of jobs made of built-in layers, schedules, optimizers and transforms: they pass both verifiers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.workers.engine.conftest import CLASSES, FEATURES, batches, exported, job, trained

LASSO = {"component": "group_lasso"}
DENSE = {"component": "keras/Dense", "config": {"units": 6, "kernel_initializer": {"component": "delta_orthogonal"}}}
CONVOLUTION = {"component": "keras/Conv1D", "config": {"filters": 3, "kernel_size": 2, "padding": "same"}}
BLOCKS = [
    {"component": "residual", "config": {"units": 6, "dropout": 0.3, "kernel_regularizer": LASSO}},
    {"component": "keras/SpectralNormalization", "config": {"layer": DENSE}},
    {"component": "keras/Reshape", "config": {"target_shape": [2, 3]}},
    {"component": "keras/SpectralNormalization", "config": {"layer": CONVOLUTION}},
    {"component": "glu", "config": {"units": 4}},
    {"component": "attention_pooling", "config": {"units": 4}},
    {"component": "reparameterize", "config": {"weight": 0.01}},
    {"component": "keras/Dense", "config": {"units": CLASSES, "kernel_constraint": {"component": "unit_ball"}}},
]
SCHEDULE = {"component": "warmup_cosine", "config": {"peak": 0.01, "warmup_steps": 2, "decay_steps": 100}}
TRANSFORMS = [
    "centralize",
    {"component": "adaptive_clip", "config": {"clipping": 0.1}},
    {"component": "noise", "config": {"eta": 0.01}},
    {"component": "clip_by_norm", "config": {"max_norm": 1.0}},
    {"component": "clip_by_value", "config": {"min": -0.5, "max": 0.5}},
]


@pytest.mark.slow
def test_a_bundle_of_built_in_parts_passes_both_verifiers(acme: Path, tmp_path: Path, verify: Any) -> None:
    inner = {"component": "keras/Adam", "config": {"learning_rate": SCHEDULE}}
    spec = job(
        model={"component": "sequential", "config": {"layers": BLOCKS}},
        optimizer={"component": "lookahead", "config": {"inner": inner, "k": 2}},
        gradients=[{"component": one} if isinstance(one, str) else one for one in TRANSFORMS],
        loss={"component": "focal"},
        metrics=[],
    )
    assembly = trained(spec, element=(tf.TensorSpec([None, FEATURES]), tf.TensorSpec([None], tf.int64)))
    folder = exported(assembly, tmp_path / "bundle").folder
    answer = verify("reload", folder)
    assert answer["ok"], answer
    model = answer["report"]["models"]["model"]
    assert model["keras"]["outputs"]["bit_equal"] is True
    assert model["keras"]["config"] == "equal"
    assert model["keras"]["optimizer_variables"] == len(assembly.optimizers["model"].variables)
    assert answer["report"]["tapeworks_modules"] == []
    answer = verify("certify", folder)
    assert answer["ok"], answer
    assert answer["report"]["step"]["max_abs_difference"] == 0.0


def test_a_variational_autoencoder_trains_and_comes_back(acme: Path, tmp_path: Path, verify: Any) -> None:
    line = np.linspace(-2, 2, FEATURES, dtype=np.float32)
    data = [(x[:, :1] * line, x[:, :1] * line) for x, _ in batches(40)]
    spec = job(
        model={"component": "vae", "config": {"latent": 2, "hidden": [8], "weight": 1 / FEATURES}},
        loss={"component": "keras/MeanSquaredError"},
        optimizer={"component": "keras/Adam", "config": {"learning_rate": 0.03}},
        metrics=[],
        training={"precision": "mixed_bfloat16"},
    )
    assembly = trained(spec, element=(tf.TensorSpec([None, FEATURES]),) * 2, data=data)
    model, x = assembly.models["model"], tf.constant(data[0][0])
    error = float(tf.reduce_mean(tf.square(tf.cast(model(x, training=False), tf.float32) - x)))
    assert error < 0.5 * float(tf.math.reduce_variance(x)), "z tells where on the line an example lies"
    folder = exported(assembly, tmp_path / "bundle", data=data).folder
    answer = verify("reload", folder)
    assert answer["ok"], answer
    assert answer["report"]["models"]["model"]["keras"]["outputs"]["bit_equal"] is True
    answer = verify("certify", folder)
    assert answer["ok"], answer
    assert answer["report"]["step"]["max_abs_difference"] == 0.0
