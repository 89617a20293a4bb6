"""A job on two devices trains what it trains on one: about 200 steps, with a last batch of one row in every epoch."""

import json
from typing import Any

import keras
import pytest

from tests.support.trainings import BATCH, CROSS_ENTROPY, job, mlp, numbers
from tests.support.two_devices import TwoDevices

ACCURACY = "keras/SparseCategoricalAccuracy"
BINARY = {"component": "keras/BinaryCrossentropy", "config": {"from_logits": True}}
DATA = {"source": numbers(92), "validation": 0.1}
"""83 examples: 8 batches of 10, and one of 3, of which the second device has one."""
TAIL = {"source": numbers(91)}
"""Nine batches of 10 and one of a single row: the second device has none."""
TRAINING: dict[str, Any] = {"epochs": 20}


def by_role(step: str, config: dict[str, Any], models: dict[str, Any], **parts: Any) -> Any:
    optimizers = {role: "keras/Adam" for role in models if role != "teacher"}
    return job(
        model=None, optimizer=None, loss=None, step={"component": step, "config": config}, models=models,
        optimizers=optimizers, training=TRAINING, **{"data": TAIL, **parts},
    )  # fmt: skip


def layers(*given: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {"component": "sequential", "config": {"layers": [{"component": n, "config": c} for n, c in given]}}


REGULARIZED = layers(
    ("keras/Dense", {"units": 8}),
    ("keras/ActivityRegularization", {"l2": 0.1}),
    ("keras/BatchNormalization", {}),
    ("keras/Dense", {"units": 3}),
)
"""Replicas meet inside the model, after a layer has added a loss."""
X = keras.Input((4,), name="x")
OUTPUTS = {"kind": keras.layers.Dense(3, name="kind")(X), "sum": keras.layers.Dense(1, name="sum")(X)}
TWO_OUTPUTS = {"component": "functional", "config": {"config": json.loads(keras.Model(X, OUTPUTS).to_json())["config"]}}
CLASS_WEIGHT = {"op": "map", "function": {"component": "class_weight", "config": {"weights": [2.0, 1.0, 0.5]}}}
NORMALIZED = layers(
    ("keras/Dense", {"units": 8, "activation": "relu"}),
    ("keras/BatchNormalization", {}),
    ("keras/Dropout", {"rate": 0.3}),
    ("keras/GaussianNoise", {"stddev": 0.1}),
    ("keras/Dense", {"units": 3}),
)
CASES: dict[str, Any] = {
    "supervised, validation, metrics": job(
        data=DATA, metrics=[ACCURACY], training=TRAINING
    ),
    "batch normalization, dropout, noise, sample weights": job(
        data={"source": numbers(91, "weighted")},
        model=NORMALIZED,
        metrics=[ACCURACY, {"component": ACCURACY, "config": {"name": "weighted"}, "weighted": True}],
        training=TRAINING,
    ),
    "activity regularization": job(data=TAIL, model=REGULARIZED, training=TRAINING),
    "ragged": job(
        data={"source": {"component": "lab/Sequences", "config": {}}, "pipeline": [BATCH]},
        model=layers(
            ("keras/Embedding", {"input_dim": 300, "output_dim": 8}),
            ("keras/GlobalAveragePooling1D", {}),
            ("keras/Dense", {"units": 23}),
        ),
        metrics=[ACCURACY], training={"epochs": 70},
    ),
    "sparse": job(
        data={"source": {"component": "lab/Sequences", "config": {"form": "sparse"}}, "pipeline": [BATCH]},
        model=layers(("sparse_dense", {"units": 8}), ("keras/Dense", {"units": 23})),
        metrics=[ACCURACY], training={"epochs": 70},
    ),
    "several outputs": job(
        data={"source": numbers(91, "two outputs"), "validation": 0.1},
        model=TWO_OUTPUTS,
        loss={"outputs": {"kind": CROSS_ENTROPY, "sum": {"component": "keras/MeanSquaredError", "weight": 0.5}}},
        metrics={"outputs": {"kind": [ACCURACY]}}, training=TRAINING,
    ),
    "class weights": job(
        data={
            "source": numbers(91),
            "pipeline": [CLASS_WEIGHT, BATCH],
        },
        training=TRAINING,
    ),
    "gan": by_role(
        "gan", {"latent_dim": 4, "discriminator_steps": 2}, {"generator": mlp(4), "discriminator": mlp(1)},
        losses={"generator": BINARY, "discriminator": BINARY}, metrics={"discriminator": ["keras/BinaryAccuracy"]},
    ),
    "wgan_gp": by_role("wgan_gp", {"latent_dim": 4, "critic_steps": 2}, {"generator": mlp(4), "critic": mlp(1)}),
    "distillation": by_role(
        "distillation", {}, {"student": mlp(), "teacher": mlp(activation="tanh")}, losses={"student": CROSS_ENTROPY}
    ),
    "accumulation": job(data=TAIL, training={**TRAINING, "gradient_accumulation": 3}),
    "accumulation of Keras": job(
        data=TAIL, training=TRAINING,
        optimizer={"component": "keras/Adam", "config": {"gradient_accumulation_steps": 3}},
    ),
    "clip and noise": job(
        data=TAIL,
        training=TRAINING,
        gradients=[
            {"component": "clip_by_global_norm", "config": {"max_norm": 0.1}},
            {"component": "noise", "config": {"eta": 0.01}},
            "gradient_norm",
        ],
    ),
    "moving averages, early stopping": job(
        data=DATA,
        training={**TRAINING, "early_stopping": {"monitor": "val_loss", "patience": 2}},
        optimizer={
            "component": "keras/AdamW",
            "config": {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 5},
        },
    ),
    "an update at every second step": job(data=TAIL, step={"component": "lab/EverySecond"}, training=TRAINING),
    "plan steps": job(data=TAIL, training={**TRAINING, "execution": {"plan": "steps"}}),
}  # fmt: skip
QUICK = "supervised, validation, metrics"


@pytest.mark.parametrize(
    "case", [pytest.param(name, marks=[] if name == QUICK else pytest.mark.slow) for name in CASES]
)
def test_two_devices_train_what_one_does(two_devices: TwoDevices, case: str) -> None:
    told = two_devices.ask("compare", CASES[case].document())
    assert told["steps"][0] == told["steps"][1] > 100 or "early" in case
    assert told["plan"] == ("steps" if "steps" in case else "loop")
    assert told["weights"][0] < 1e-5, told["weights"]
    assert told["logs"] < 1e-5
    assert all(value == 0.0 for value in told["metrics"].values()), told["metrics"]
    assert told["metrics"].keys() >= ({"sparse_categorical_accuracy"} if case == QUICK else set())


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "apart"), [("mixed_bfloat16", 2e-3), ("mixed_float16", 3e-4)])
def test_mixed_precision_differs_by_its_rounding(two_devices: TwoDevices, precision: str, apart: float) -> None:
    spec = job(data=TAIL, training={**TRAINING, "precision": precision})
    told = two_devices.ask("compare", spec.document())
    assert told["steps"] == [200, 200]
    assert told["weights"][0] < apart, told["weights"]
    assert told["logs"] < apart
