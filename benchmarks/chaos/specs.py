"""Jobs of `chaos.py`, of several kinds, drawn by a seeded generator."""

from __future__ import annotations

import random
from typing import Any

from qualification.faults import specs

LIMITS = {"max_attempts": 12}
"""So many that a job ends as failed by a defect, not by bad luck."""


def plain(chance: random.Random) -> dict[str, Any]:
    """Exports a model."""
    return specs.short(export={}, steps=chance.choice((100, 300)), milliseconds=5.0, limits=LIMITS)


def stopping(chance: random.Random) -> dict[str, Any]:
    """Validation and early stopping."""
    return {
        "data": {"source": "digits", "validation": 0.2, "pipeline": [specs.BATCH, specs.pace(5.0)]},
        "model": {"component": "mlp", "config": {"hidden": [16], "outputs": 10}},
        "optimizer": "keras/Adam",
        "loss": "focal",
        "training": {
            "epochs": chance.randint(6, 12),
            "early_stopping": {"monitor": "val_loss", "patience": 2},
            "checkpoint": {"every_steps": 60, "every_seconds": None, "best": {"monitor": "val_loss"}},
        },
        "export": {},
        "limits": LIMITS,
    }


def gan(chance: random.Random) -> dict[str, Any]:
    """Two models, two optimizers."""
    adam = {"component": "keras/Adam", "config": {"learning_rate": 0.0005}}
    return {
        "data": {"source": "digits", "pipeline": [{"op": "repeat"}, specs.BATCH, specs.pace(5.0)]},
        "models": {
            "generator": {"component": "mlp", "config": {"hidden": [32], "outputs": 64}},
            "discriminator": {"component": "mlp", "config": {"hidden": [32], "outputs": 1}},
        },
        "step": {"component": "gan", "config": {"latent_dim": 8}},
        "optimizers": {"generator": adam, "discriminator": adam},
        "losses": {"generator": "non_saturating_gan", "discriminator": "non_saturating_gan"},
        "training": {
            "max_steps": chance.choice((300, 600)),
            "checkpoint": {"every_steps": 100, "every_seconds": None},
        },
        "export": {"models": ["generator"]},
        "limits": LIMITS,
    }


def saving(chance: random.Random) -> dict[str, Any]:
    """A checkpoint every few steps; deterministic, so that its weights are known."""
    return specs.job(steps=800, interval=100, milliseconds=chance.choice((4.0, 8.0)), limits=LIMITS)


KINDS = {"plain": plain, "early stopping": stopping, "GAN": gan, "checkpoints": saving}
