"""Random optimizers: all of Keras', with their arguments and schedules, and a user's own."""

from __future__ import annotations

from typing import Any

from qualification.differential.choices import Choices
from qualification.differential.parts import Part
from tapeworks.spec.references import Kind

_ARGUMENTS: dict[str, dict[str, tuple[Any, ...]]] = {
    "SGD": {"momentum": (0.5, 0.9), "nesterov": (True,)},
    "Adam": {"beta_1": (0.8,), "epsilon": (1e-3,), "amsgrad": (True,)},
    "AdamW": {"weight_decay": (0.1,), "beta_2": (0.9,)},
    "Adamax": {"beta_1": (0.8,)},
    "Adagrad": {"initial_accumulator_value": (0.5,)},
    "Adadelta": {"rho": (0.8,)},
    "RMSprop": {"rho": (0.8,), "momentum": (0.5,), "centered": (True,)},
    "Nadam": {"beta_1": (0.8,)},
    "Ftrl": {"l1_regularization_strength": (0.01,), "l2_shrinkage_regularization_strength": (0.01,)},
    "Lion": {"beta_1": (0.8,)},
    "Lamb": {"beta_2": (0.9,)},
    "ScheduleFreeAdamW": {"warmup_steps": (3,), "beta_1": (0.8,)},
    "Adafactor": {"clip_threshold": (0.5,), "relative_step": (False,)},
    "Muon": {"exclude_layers": (["head"],), "momentum": (0.8,)},
    "differential/Slowed": {"momentum": (0.9,)},
    "differential/Signed": {"beta_1": (0.8,)},
    "differential/Centred": {"momentum": (0.9,)},
}
_SCHEDULES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ExponentialDecay", {"initial_learning_rate": 0.02, "decay_steps": 3, "decay_rate": 0.7, "staircase": True}),
    ("PiecewiseConstantDecay", {"boundaries": [2, 5], "values": [0.02, 0.01, 0.005]}),
    ("PolynomialDecay", {"initial_learning_rate": 0.02, "decay_steps": 4, "power": 2.0, "cycle": True}),
    ("InverseTimeDecay", {"initial_learning_rate": 0.02, "decay_steps": 2, "decay_rate": 0.5}),
    ("CosineDecay", {"initial_learning_rate": 0.0, "decay_steps": 6, "warmup_target": 0.02, "warmup_steps": 3}),
    ("CosineDecayRestarts", {"initial_learning_rate": 0.02, "first_decay_steps": 3, "m_mul": 0.8}),
)


def optimizer(choices: Choices, *, sparse: bool) -> Part:
    """A random optimizer. `sparse`: for gradients of a table, too."""
    name = choices.one(list(_ARGUMENTS))
    if "/" not in name and choices.chance(0.15):
        return Part(Kind.OPTIMIZER, f"keras/{name}", {}, name.lower())
    config: dict[str, Any] = choices.config(0.5, **_ARGUMENTS[name])
    if sparse:
        config.pop("centered", None)  # Keras' own fails
    if config.get("nesterov"):
        config.setdefault("momentum", 0.9)
    config["learning_rate"] = choices.one((0.01, 0.003))
    if choices.chance(0.3):
        schedule, arguments = choices.one(_SCHEDULES)
        config["learning_rate"] = Part(Kind.SCHEDULE, f"keras/{schedule}", arguments)
    if choices.chance(0.25):
        config.update([choices.one((("clipnorm", 0.3), ("clipvalue", 0.05), ("global_clipnorm", 0.5)))])
    if choices.chance(0.25):
        config["weight_decay"] = choices.one((0.05, None))
    if choices.chance(0.25):
        config.update({"use_ema": True, **choices.config(0.6, ema_momentum=(0.5, 0.9), ema_overwrite_frequency=(2, 3))})
    if choices.chance(0.2):
        config["gradient_accumulation_steps"] = choices.one((2, 3))
    if choices.chance(0.1):
        config["name"] = "mine"
    change = _without_biases if config.get("weight_decay") and choices.chance(0.3) else None
    return Part(Kind.OPTIMIZER, name if "/" in name else f"keras/{name}", config, change=change)


def _without_biases(optimizer: Any) -> None:
    optimizer.exclude_from_weight_decay(var_names=["bias"])
