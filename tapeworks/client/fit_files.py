"""Files that callbacks of `fit` leave on this machine, written after the job: checkpoints, TensorBoard, CSV."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapeworks import archives
from tapeworks.keras.fit_callbacks import FitCallbacks
from tapeworks.keras.weights import best_weights
from tapeworks.schemas.jobs import Job

if TYPE_CHECKING:
    from tapeworks.client.client import Client


def write_files(client: Client, job: Job, model: Any, history: Any, callbacks: FitCallbacks) -> None:
    """Write what ModelCheckpoint, TensorBoard and CSVLogger name."""
    for callback in callbacks.files:
        kind = type(callback).__name__
        if kind == "ModelCheckpoint":
            _checkpoint(client, job, model, callback)
        elif kind == "TensorBoard":
            _tensorboard(client, job, Path(callback.log_dir))
        else:
            _csv(history, callback)


def _checkpoint(client: Client, job: Job, model: Any, callback: Any) -> None:
    path = Path(callback.filepath)
    path.parent.mkdir(parents=True, exist_ok=True)
    save = model.save_weights if callback.save_weights_only else model.save
    best = job.checkpoints.best if callback.save_best_only else None
    if best is None:
        save(path)
        return
    with tempfile.TemporaryDirectory(prefix="tapeworks-") as folder:
        archive = client.download_checkpoint(job.id, best.id, Path(folder) / "best.tar")
        state = Path(folder) / "state"
        archives.extract(archive, state, wanted=lambda entry: entry.name == "values.npz")
        with best_weights(model, state / "values.npz"):
            save(path)


def _tensorboard(client: Client, job: Job, folder: Path) -> None:
    for artifact in client.artifacts(job.id):
        if artifact.path.startswith("tensorboard/"):
            target = folder / Path(artifact.path).name
            target.parent.mkdir(parents=True, exist_ok=True)
            client.download_artifact(job.id, artifact.path, target)


def _csv(history: Any, callback: Any) -> None:
    path, names = Path(callback.filename), sorted(history.history)
    header = not (callback.append and path.exists() and path.stat().st_size)
    with path.open("a" if callback.append else "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=callback.sep)
        if header:
            writer.writerow(["epoch", *names])
        writer.writerows([epoch, *(history.history[name][epoch] for name in names)] for epoch in history.epoch)
