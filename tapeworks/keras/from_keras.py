"""`from_keras`: the whole job spec from a compiled Keras model: the way over from `fit` is one line.

    spec = tapeworks.from_keras(model, data={"source": "digits", "pipeline": […]}, epochs=5)
    client.submit(spec)

The model's own config, optimizer, losses, weights of losses, metrics and precision are read from what `compile` was
given. Everything survives, or ComponentError says what does not. The model's weights are not part of a spec: the job
starts from the initialisers. Keras is taken from the caller's process, which has it already; nothing here imports it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from tapeworks.errors import ComponentError, SpecInvalid
from tapeworks.keras.compile_losses import losses, outputs_of
from tapeworks.keras.compile_metrics import metrics
from tapeworks.keras.fit_callbacks import FitCallbacks, translate
from tapeworks.keras.models import is_plain, model_reference
from tapeworks.keras.references import keras, reference
from tapeworks.keras.unsupported import Unsupported
from tapeworks.spec.job_spec import JobSpec
from tapeworks.spec.parsing import parse_spec

_FLOATX = {"float32": "float32", "float64": "float64", "mixed_bfloat16": "float32", "mixed_float16": "float32"}
"""`training.precision` → the float type of what has no policy of its own."""


def from_keras(
    model: Any,
    *,
    data: Mapping[str, Any],
    epochs: int = 1,
    callbacks: Sequence[Any] | None = None,
    class_weight: Mapping[int, float] | None = None,
    validation_split: float | None = None,
    **fields: Any,
) -> JobSpec:
    """The canonical spec of a job that trains `model` as `fit` would.

    Args:
        model: a compiled functional or sequential keras.Model, or a registered component.
        data: the `data` part of the spec.
        epochs: as in `fit`.
        callbacks: callbacks of Keras, as in `fit`, or references of the job's own (`{"component": …}`).
        class_weight: as in `fit`: integer class → factor of its elements' losses.
        validation_split: as in `fit`: the fraction at the end of the data that is only evaluated.
        fields: further fields of the spec (`name`, `gradients`, `export`, …); `training` is merged with what is read.

    Raises ComponentError that lists every part which a spec cannot name, each with its remedy, and SpecInvalid.
    """
    document, _ = document_and_callbacks(
        model,
        data=data_with_fit_arguments(data, class_weight, validation_split),
        epochs=epochs,
        callbacks=callbacks,
        problems=Unsupported(),
        **fields,
    )
    return parsed(document)


def document_and_callbacks(
    model: Any,
    *,
    data: Mapping[str, Any],
    epochs: int,
    callbacks: Sequence[Any] | None,
    problems: Unsupported,
    steps_per_epoch: int | None = None,
    **fields: Any,
) -> tuple[dict[str, Any], FitCallbacks]:
    """The spec as JSON, and what the callbacks become. `problems`: what the caller found already; it is raised here.

    `steps_per_epoch`: batches of the data, where they are known.
    """
    compiled = _compiled(model)
    given = dict(fields.pop("training", None) or {})
    precision = _precision(model, given)
    floatx = _FLOATX[precision]
    outputs = outputs_of(model)
    own = [one for one in callbacks or () if isinstance(one, str | Mapping)]
    steps = given.get("steps_per_epoch") or steps_per_epoch
    of_keras = [one for one in callbacks or () if not isinstance(one, str | Mapping)]
    translated = translate(of_keras, model, epochs, steps, problems)
    parts: dict[str, Any] = {"data": dict(data)}
    with problems.collect():
        parts["model"] = model_reference(model, floatx)
    of_training: dict[str, Any] = {}
    with problems.collect():
        parts["optimizer"], of_training = _optimizer(model, compiled["optimizer"], precision, floatx)
        if translated.learning_rate is not None:
            parts["optimizer"]["config"]["learning_rate"] = translated.learning_rate
    with problems.collect():
        parts["loss"] = losses(compiled.get("loss"), compiled.get("loss_weights"), outputs, floatx)
    with problems.collect():
        args = (compiled.get("metrics"), compiled.get("weighted_metrics"), parts.get("loss"), outputs, floatx)
        parts["metrics"] = metrics(*args)
    problems.check()
    parts["training"] = {"epochs": epochs, **of_training, **_execution(compiled), **translated.training, **given}
    parts["callbacks"] = [*translated.callbacks, *own] or None
    given_fields = {key: value for key, value in fields.items() if value is not None or key == "export"}
    return {**{key: value for key, value in parts.items() if value is not None}, **given_fields}, translated


def parsed(document: Mapping[str, Any]) -> JobSpec:
    """The spec. Raises SpecInvalid with a finding for each wrong field, never a trace of the validation."""
    try:
        return parse_spec(document)
    except SpecInvalid as error:
        raise SpecInvalid(error.findings) from None


def data_with_fit_arguments(
    data: Mapping[str, Any], class_weight: Mapping[int, float] | None, validation_split: float | None
) -> dict[str, Any]:
    """The `data` of a spec with what `fit` takes beside it. Raises ComponentError."""
    made = dict(data)
    if validation_split:
        if made.get("validation") is not None:
            raise ComponentError("data.validation and validation_split are both given: leave one of them out")
        made["validation"] = {"fraction": float(validation_split), "split": "tail"}
    if class_weight:
        classes = sorted(class_weight)
        if any(not isinstance(one, int) or one < 0 for one in classes):
            raise ComponentError(f"class_weight has the classes {classes}: give integers from 0 on")
        weights = [float(class_weight.get(one, 1.0)) for one in range(max(classes) + 1)]
        weigh = {"op": "map", "function": {"component": "class_weight", "config": {"weights": weights}}}
        made["pipeline"] = [{**weigh, "training_only": True}, *made.get("pipeline", [])]
    return made


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
