"""Keras callbacks as parts of a job spec: early stopping, checkpoints, learning rates, TensorBoard.

`translate(callbacks, …)` reads the callbacks' own attributes. Callbacks that only write files on this machine
(ModelCheckpoint, TensorBoard, CSVLogger) are also listed in `FitCallbacks.files`: `client.fit` writes those files after
the job has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tapeworks.keras.references import is_keras, keras
from tapeworks.keras.unsupported import Unsupported


@dataclass
class FitCallbacks:
    """What the callbacks of a `fit` become."""

    training: dict[str, Any] = field(default_factory=dict)
    """Fields of `training`: `early_stopping`, `checkpoint`."""
    callbacks: list[dict[str, Any]] = field(default_factory=list)
    """References of the job's callbacks."""
    learning_rate: dict[str, Any] | None = None
    """The reference of a schedule that replaces the optimizer's learning rate."""
    files: list[Any] = field(default_factory=list)
    """Callbacks whose files are written on this machine after the job."""


def translate(
    callbacks: Sequence[Any] | None, model: Any, epochs: int, steps_per_epoch: int | None, problems: Unsupported
) -> FitCallbacks:
    """Translate the `callbacks` argument of `fit`.

    Args:
        callbacks: instances of keras.callbacks.Callback; None for none.
        model: the compiled model, whose learning rate a LearningRateScheduler starts from.
        epochs: as in `fit`.
        steps_per_epoch: batches of one epoch; None where it is not known.
        problems: collects what has no counterpart.
    """
    found = FitCallbacks()
    for callback in _flat(callbacks):
        name = type(callback).__name__
        match name if is_keras(type(callback)) else None:
            case "EarlyStopping":
                _early_stopping(callback, found, problems)
            case "ReduceLROnPlateau":
                _reduce_learning_rate(callback, found)
            case "ModelCheckpoint":
                _model_checkpoint(callback, found, problems)
            case "TensorBoard":
                _tensorboard(callback, found, problems)
            case "LearningRateScheduler":
                found.learning_rate = _schedule(callback, model, epochs, steps_per_epoch, problems)
            case "CSVLogger":
                found.files.append(callback)
            case "SwapEMAWeights":
                if not getattr(model.optimizer, "use_ema", False):
                    problems.add("SwapEMAWeights", "compile with an optimizer that has use_ema=True")
            case "BackupAndRestore" | "History" | "ProgbarLogger":
                pass  # a job resumes by itself, keeps its history and reports its progress
            case _:
                problems.add(f"the callback {name}", _remedy(name))
    return found


def _flat(callbacks: Any) -> list[Any]:
    if callbacks is None:
        return []
    return [one for one in (callbacks if isinstance(callbacks, list | tuple) else [callbacks]) if one is not None]


def _remedy(name: str) -> str:
    if name == "TerminateOnNaN":
        return "leave it out; a job reports a loss that is not finite by itself"
    return (
        "write it as a tapeworks.Callback with @tapeworks.component, push its file with client.packages.push and give "
        'callbacks=[{"component": NAME}] to from_keras (docs/callbacks.md)'
    )


def _early_stopping(callback: Any, found: FitCallbacks, problems: Unsupported) -> None:
    if "early_stopping" in found.training:
        problems.add("a second EarlyStopping", "a job has one: keep the callback that stops first")
    if callback.baseline is not None:
        problems.add("EarlyStopping(baseline=…)", "leave baseline out; the first epoch sets the value to improve on")
    if callback.start_from_epoch:
        problems.add("EarlyStopping(start_from_epoch=…)", "leave start_from_epoch out and raise patience instead")
    found.training["early_stopping"] = {
        "monitor": callback.monitor,
        "mode": callback.mode,
        "patience": int(callback.patience),
        "min_delta": float(callback.min_delta),
        "restore_best": bool(callback.restore_best_weights),
    }


def _reduce_learning_rate(callback: Any, found: FitCallbacks) -> None:
    config = {
        "monitor": callback.monitor,
        "factor": float(callback.factor),
        "patience": int(callback.patience),
        "mode": callback.mode,
        "min_delta": float(callback.min_delta),
        "cooldown": int(callback.cooldown),
        "min_lr": float(callback.min_lr),
    }
    found.callbacks.append({"component": "reduce_learning_rate", "config": config})


def _model_checkpoint(callback: Any, found: FitCallbacks, problems: Unsupported) -> None:
    what = f"ModelCheckpoint({callback.filepath!r})"
    if callback.save_freq != "epoch":
        problems.add(f"{what} with save_freq", 'use save_freq="epoch", or training={"checkpoint": {"every_steps": …}}')
    if "{" in callback.filepath:
        problems.add(
            f"{what} with a file for each epoch",
            "give a file name without {…}; client.checkpoints(job.id) lists the checkpoints that a job keeps",
        )
    if callback.save_best_only:
        best = {"monitor": callback.monitor, "mode": callback.mode}
        if found.training.get("checkpoint", {"best": best})["best"] != best:
            problems.add(f"{what} beside another best value", "a job keeps one best checkpoint: use one monitor")
        found.training["checkpoint"] = {"best": best}
    found.files.append(callback)


def _tensorboard(callback: Any, found: FitCallbacks, problems: Unsupported) -> None:
    if callback.embeddings_freq:
        problems.add("TensorBoard(embeddings_freq=…)", "leave it out; read the embeddings from the trained model")
    if callback.write_images:
        problems.add("TensorBoard(write_images=True)", "leave it out; histogram_freq=1 writes histograms of weights")
    if getattr(callback, "_start_batch", 0):
        problems.add("TensorBoard(profile_batch=…)", "leave it out; job.diagnostics says what bounds the step")
    config = {"histograms": int(callback.histogram_freq)}
    found.callbacks.append({"component": "tensorboard", "config": config})
    found.files.append(callback)


def _schedule(
    callback: Any, model: Any, epochs: int, steps_per_epoch: int | None, problems: Unsupported
) -> dict[str, Any] | None:
    """One learning rate for each epoch, as PiecewiseConstantDecay over the optimizer's steps."""
    if steps_per_epoch is None:
        problems.add(
            "LearningRateScheduler without steps_per_epoch",
            'give training={"steps_per_epoch": …}, or use a schedule of keras.optimizers.schedules',
        )
        return None
    if not isinstance(getattr(model.optimizer, "_learning_rate", None), keras().Variable):
        problems.add("LearningRateScheduler with a schedule in the optimizer", "keep one of the two")
        return None
    rate, rates = float(model.optimizer.learning_rate), list[float]()
    for epoch in range(epochs):
        rate = _rate(callback.schedule, epoch, rate)
        rates.append(rate)
    values, boundaries = rates[:1], list[int]()
    for epoch, value in enumerate(rates[1:], start=1):
        if value != values[-1]:
            boundaries.append(epoch * steps_per_epoch - 1)  # a boundary belongs to the interval before it
            values.append(value)
    if not boundaries:
        values, boundaries = values * 2, [steps_per_epoch]
    return {"component": "keras/PiecewiseConstantDecay", "config": {"boundaries": boundaries, "values": values}}


def _rate(schedule: Any, epoch: int, rate: float) -> float:
    try:
        return float(schedule(epoch, rate))
    except TypeError:  # as in Keras: a schedule may take the epoch alone
        return float(schedule(epoch))
