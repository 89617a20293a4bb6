"""`from_keras`: the whole job spec from a compiled Keras model: the way over from `fit` is one line.

    spec = tapeworks.from_keras(model, data={"source": "digits", "pipeline": […]}, epochs=5)
    client.submit(spec)

The model's own config, optimizer, losses, weights of losses, metrics and precision are read from what `compile` was
given. Everything survives, or ComponentError says what does not. The model's weights are not part of a spec: the job
starts from the initialisers. Keras is taken from the caller's process, which has it already; nothing here imports it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from tapeworks.errors import ComponentError
from tapeworks.keras.compile_losses import losses, outputs_of
from tapeworks.keras.compile_metrics import metrics
from tapeworks.keras.models import is_plain, model_reference
from tapeworks.keras.references import keras, reference
from tapeworks.spec.job_spec import JobSpec

_FLOATX = {"float32": "float32", "float64": "float64", "mixed_bfloat16": "float32", "mixed_float16": "float32"}
"""`training.precision` → the float type of what has no policy of its own."""


def from_keras(model: Any, *, data: Mapping[str, Any], epochs: int = 1, **fields: Any) -> JobSpec:
    """The canonical spec of a job that trains `model` as `fit` would.

    Args:
        model: a compiled functional or sequential keras.Model, or a registered component.
        data: the `data` part of the spec.
        epochs: as in `fit`.
        fields: further fields of the spec (`name`, `gradients`, `export`, …); `training` is merged with what is read.

    Raises ComponentError where a part cannot be named in a spec, SpecInvalid and pydantic's ValidationError.
    """
    compiled = _compiled(model)
    given = dict(fields.pop("training", {}))
    precision = _precision(model, given)
    floatx = _FLOATX[precision]
    optimizer, of_training = _optimizer(model, compiled["optimizer"], precision, floatx)
    outputs = outputs_of(model)
    loss = losses(compiled.get("loss"), compiled.get("loss_weights"), outputs, floatx)
    parts = {
        "data": dict(data),
        "model": model_reference(model, floatx),
        "optimizer": optimizer,
        "loss": loss,
        "metrics": metrics(compiled.get("metrics"), compiled.get("weighted_metrics"), loss, outputs, floatx),
        "training": {"epochs": epochs, **of_training, **_execution(compiled), **given},
    }
    return JobSpec.model_validate({**{key: value for key, value in parts.items() if value is not None}, **fields})


def _compiled(model: Any) -> dict[str, Any]:
    """What `compile` was given, as it was given."""
    if not getattr(model, "compiled", False):
        raise ComponentError("the model is not compiled: call model.compile(optimizer=…, loss=…) first")
    if type(model).compile is not keras().Model.compile:
        raise ComponentError(
            f"{type(model).__name__} overrides compile, and a spec cannot hold its arguments: pass them "
            "to __init__, or write the spec as JSON"
        )
    compiled = dict(model._compile_config.config)
    if compiled.get("optimizer") is None:
        raise ComponentError("the model was compiled without an optimizer")
    return compiled


def _precision(model: Any, training: Mapping[str, Any]) -> str:
    """`training.precision`: the model's own policy. Its layers keep theirs whatever the job says."""
    policy = model.dtype_policy.name
    if policy not in _FLOATX:
        raise ComponentError(f"the model's dtype policy is {policy!r}; a job's is one of {', '.join(_FLOATX)}")
    wanted = training.get("precision", policy)
    if wanted != policy and is_plain(model):
        raise ComponentError(
            f"training.precision is {wanted!r}, but the model's layers were made for {policy!r}: call "
            f"keras.config.set_dtype_policy({wanted!r}) before the model is built"
        )
    return str(wanted) if wanted in _FLOATX else str(policy)  # the spec's own check names the values


# ── optimizer ────────────────────────────────────────────────────────────────────────────────────


def _optimizer(model: Any, optimizer: Any, precision: str, floatx: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The reference of the optimizer, and what of it the job does by itself."""
    scaled = type(optimizer).__name__ == "LossScaleOptimizer"
    if scaled:
        optimizer = _unscaled(optimizer, precision)
    elif precision == "mixed_float16" and type(model.optimizer).__name__ != "LossScaleOptimizer":
        raise ComponentError(
            "the model was compiled with auto_scale_loss=False; a job in mixed_float16 scales its losses: compile "
            "without it, or build the model in another precision"
        )
    for name in ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"):
        if getattr(optimizer, name, None):
            raise ComponentError(
                "exclude_from_weight_decay of the optimizer is not in its config: register a subclass that calls it in "
                "__init__ with @tapeworks.component"
            )
    if getattr(optimizer, "built", False) and int(optimizer.iterations) > 0:
        warnings.warn(
            f"the model was trained for {int(optimizer.iterations)} steps; a spec holds no weights, and the job starts "
            "from the initialisers",
            stacklevel=4,
        )
    made = reference(optimizer, "the optimizer", floatx=floatx)
    of_training = {} if precision == "float32" else {"precision": precision}
    config = made["config"]
    if config.pop("loss_scale_factor", None) is not None:
        raise ComponentError(
            "the optimizer has a loss_scale_factor: leave it out, mixed_float16 scales losses by itself"
        )
    return made, of_training


def _unscaled(optimizer: Any, precision: str) -> Any:
    """The optimizer inside a LossScaleOptimizer, whose work the job does in mixed_float16."""
    if precision != "mixed_float16":
        raise ComponentError(
            f"the optimizer is a LossScaleOptimizer and the model's precision {precision!r}: compile with its inner "
            "optimizer; losses are scaled in mixed_float16 only"
        )
    config = optimizer.get_config()
    if (config["initial_scale"], config["dynamic_growth_steps"]) != (2.0**15, 2000):
        raise ComponentError(
            "initial_scale and dynamic_growth_steps of LossScaleOptimizer cannot be set in a spec: a job scales losses "
            "by Keras' own defaults, 32768 and 2000; compile with the inner optimizer"
        )
    return optimizer.inner_optimizer


# ── how steps are run ────────────────────────────────────────────────────────────────────────────


def _execution(compiled: Mapping[str, Any]) -> dict[str, Any]:
    """`run_eagerly` and `steps_per_execution`. `jit_compile` changes speed and rounding only: the job decides it."""
    if compiled.get("run_eagerly"):
        return {"execution": {"plan": "eager"}}
    steps = compiled.get("steps_per_execution") or 1
    return {"execution": {"steps_per_call": steps}} if steps > 1 else {}
