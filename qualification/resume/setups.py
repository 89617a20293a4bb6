"""A random job from a seed: data, model, loss, metrics, optimizer, plan and callbacks, all deterministic."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """One job, and where it is interrupted."""

    seed: int
    spec: Document
    pause: float
    """Part of the steps after which it is paused."""
    kill: float
    """Part of the steps after which its runner is killed."""


def setup(seed: int) -> Setup:
    """The setup of a seed: always the same."""
    chance = random.Random(seed)
    fixed = chance.random() < 0.75  # a learning rate that may be set, rather than a schedule
    by_step = chance.random() < 0.2
    document: Document = {
        "data": _data(chance, weighted=not by_step),
        "model": _model(chance),
        "loss": _loss(chance),
        "optimizer": _optimizer(chance, fixed=fixed),
        "training": _training(chance),
        "export": None,
    }
    if by_step:
        document["step"] = {"component": "fuzz/Step"}
    else:
        document["metrics"] = chance.sample(["keras/SparseCategoricalAccuracy", "fuzz/Largest"], chance.randint(0, 2))
    if chance.random() < 0.4:
        document["gradients"] = [_transform(chance)]
        document["optimizer"]["config"].pop("global_clipnorm", None)  # one place says what is done to gradients
    if chance.random() < 0.4 and fixed:
        document["callbacks"] = ["fuzz/Halving"]
    _bound(document, chance)
    return Setup(seed, document, *sorted((chance.uniform(0.05, 0.6), chance.uniform(0.3, 0.95))))


def _maybe(chance: random.Random, probability: float, *items: Document) -> list[Document]:
    return [chance.choice(items)] if chance.random() < probability else []


def _on_x(name: str, **config: Any) -> Document:
    return {"op": "map", "field": "x", "function": {"component": f"fuzz/{name}", "config": config}}


def _data(chance: random.Random, *, weighted: bool) -> Document:
    noise = [
        _on_x("Dropped", seed=4), _on_x("Dropped"), _on_x("Generated"), _on_x("global_noise"), _on_x("given_noise"),
    ]  # fmt: skip
    shuffle = {"op": "shuffle", "buffer_size": chance.choice([7, 1000])}
    form = chance.choice(["memory", "memory", "unknown", "shuffled", "seeded", "python"])
    config = {"size": chance.randint(40, 90), "form": form, "weighted": weighted and chance.random() < 0.4}
    pipeline = [
        *_maybe(chance, 0.2, {"op": "cache"}),
        *_maybe(chance, 0.6, shuffle),
        *_maybe(chance, 0.5, *noise),
        *_maybe(chance, 0.25, {"op": "filter", "field": "x", "function": {"component": "fuzz/kept"}}),
        *_maybe(chance, 0.2, {"op": "apply", "function": {"component": "fuzz/mixed"}}),
        *_maybe(chance, 0.15, {"op": "take", "count": 37}),
        *_maybe(chance, 0.15, {"op": "repeat"}, {"op": "repeat", "count": 2}),
        {"op": "batch", "batch_size": chance.choice([4, 8, 9]), "drop_remainder": chance.random() < 0.3},
        *_maybe(chance, 0.4, *noise),
        *_maybe(chance, 0.1, {"op": "cache"}),
        *_maybe(chance, 0.1, {"op": "prefetch"}),
    ]
    source: Document = {"component": "fuzz/Rows", "config": config}
    if chance.random() < 0.2:
        branches = [{"source": source, "pipeline": _maybe(chance, 0.5, *noise)}, {"source": source}]
        source = {"component": "sample", "config": {"sources": branches, "weights": [0.6, 0.4]}}
    data: Document = {"source": source, "pipeline": pipeline}
    if chance.random() < 0.5:
        cuttable = form not in ("shuffled", "seeded")
        data["validation"] = 0.2 if cuttable else {"component": "fuzz/Rows", "config": {**config, "form": "memory"}}
    return data


def _model(chance: random.Random) -> Document:
    middle: list[Document] = [
        {"component": "keras/Dropout", "config": {"rate": 0.3}},
        {"component": "keras/GaussianNoise", "config": {"stddev": 0.1}},
        {"component": "keras/BatchNormalization"},
        {"component": "keras/LayerNormalization"},
        {"component": "keras/AlphaDropout", "config": {"rate": 0.1}},
        {"component": "fuzz/Remembering"},
    ]
    hidden = {"component": "keras/Dense", "config": {"units": chance.choice([5, 8]), "activation": "relu"}}
    layers = [
        hidden,
        *chance.sample(middle, chance.randint(0, 3)),
        {"component": "keras/Dense", "config": {"units": 3}},
    ]
    return {"component": "sequential", "config": {"layers": layers}}


def _loss(chance: random.Random) -> Any:
    return chance.choice(
        [{"component": "keras/SparseCategoricalCrossentropy", "config": {"from_logits": True}}, "focal", "fuzz/Warming"]
    )


def _optimizer(chance: random.Random, *, fixed: bool) -> Document:
    name = chance.choice(["Adam", "AdamW", "SGD", "RMSprop", "Nadam", "Lion", "Adagrad", "Adadelta", "Ftrl", "Adamax"])
    # Never zero: Ftrl divides by the rate.
    decay = {"initial_learning_rate": 0.02, "decay_steps": 25, "alpha": 0.1}
    schedule = {"component": "keras/CosineDecay", "config": decay}
    config: Document = {"learning_rate": 0.01 if fixed else schedule}
    if name == "SGD":
        config |= {"momentum": 0.9, "nesterov": chance.random() < 0.5}
    if chance.random() < 0.3:
        config |= {"use_ema": True, "ema_overwrite_frequency": chance.choice([None, 5])}
    if chance.random() < 0.3:
        config |= {"global_clipnorm": 1.0}
    return {"component": f"keras/{name}", "config": config}


def _transform(chance: random.Random) -> Document:
    return chance.choice(
        [
            {"component": "clip_by_global_norm", "config": {"max_norm": 1.0}},
            {"component": "noise", "config": {"eta": 0.05}},
            {"component": "fuzz/Momentum"},
        ]
    )


def _training(chance: random.Random) -> Document:
    training: Document = {
        "deterministic": True,
        "seed": chance.randint(0, 9999),
        "epochs": chance.randint(2, 4),
        "report_every_steps": chance.choice([1, 2, 3]),
        "checkpoint": {"every_steps": chance.choice([1, 2, 5]), "every_seconds": None, "keep": 3},
        "precision": chance.choice(["float32"] * 4 + ["float64", "mixed_float16", "mixed_bfloat16"]),
        "execution": {"plan": chance.choice(["auto", "loop", "steps", "fused"])},
    }
    if chance.random() < 0.2:
        training["gradient_accumulation"] = chance.choice([2, 3])
    return training


def _bound(document: Document, chance: random.Random) -> None:
    """What ends an epoch, and early stopping where there is a validation."""
    training, data = document["training"], document["data"]
    if any(one["op"] == "repeat" and "count" not in one for one in data["pipeline"]) or chance.random() < 0.15:
        training["steps_per_epoch"] = chance.choice([4, 7])
    if training["precision"] == "float64":
        data["pipeline"] = [one for one in data["pipeline"] if one["op"] != "map"]  # theirs is float32
    if "validation" in data and chance.random() < 0.5:
        training["early_stopping"] = {"monitor": "val_loss", "patience": 2, "restore_best": chance.random() < 0.5}
