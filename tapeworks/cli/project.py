"""`tapeworks init`: a small project to start from: a job, its data file, a loss of its own and a test of the loss."""

from __future__ import annotations

import json
import random
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from tapeworks.cli.console import out
from tapeworks.cli.new_files import write_files

_JOB = {
    "name": "flowers",
    "data": {
        "source": {
            "component": "csv",
            "config": {"files": "flowers.csv", "labels": "species", "classes": ["aster", "bellis", "crocus"]},
        },
        "validation": 0.2,
        "pipeline": [{"op": "shuffle", "buffer_size": 1000}, {"op": "batch", "batch_size": 16}],
    },
    "model": {"component": "mlp", "config": {"hidden": [16], "outputs": 3}},
    "optimizer": {"component": "keras/Adam", "config": {"learning_rate": 0.01}},
    "loss": {"component": "my/SmoothedCrossEntropy", "config": {"smoothing": 0.05}},
    "metrics": ["accuracy"],
    "training": {"epochs": 40},
}
_LOSS = '''\
"""A loss of this project: job.json names it as my/SmoothedCrossEntropy."""

import keras
import tensorflow as tf

from tapeworks import component


@component(
    "my/SmoothedCrossEntropy",
    example={"y_true": tf.TensorSpec([None], tf.int64), "y_pred": tf.TensorSpec([None, 3], tf.float32)},
)
class SmoothedCrossEntropy(keras.losses.Loss):
    """Cross-entropy of logits, with `smoothing` of each label spread over all classes.

    y_true: int `(n,)`; y_pred: logits `(n, classes)`; returns `(n,)`.
    """

    def __init__(self, smoothing: float = 0.1, **kwargs):
        super().__init__(**kwargs)
        self.smoothing = smoothing

    def call(self, y_true, y_pred):
        classes = tf.shape(y_pred)[-1]
        labels = tf.one_hot(tf.cast(tf.reshape(y_true, [-1]), tf.int32), classes, dtype=y_pred.dtype)
        spread = self.smoothing / tf.cast(classes, y_pred.dtype)
        return tf.nn.softmax_cross_entropy_with_logits((1.0 - self.smoothing) * labels + spread, y_pred)
'''
_TEST = '''\
"""Run with `python -m pytest` in the project's folder."""

import sys
from pathlib import Path

import keras
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from my_losses import SmoothedCrossEntropy


def test_without_smoothing_it_is_cross_entropy():
    y, logits = np.array([0, 2]), np.array([[1.0, 2.0, 3.0], [0.5, 0.1, -1.0]], "float32")
    expected = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, logits)
    np.testing.assert_allclose(SmoothedCrossEntropy(smoothing=0.0)(y, logits), expected, rtol=1e-6)
'''
_CENTRES = {"aster": (1.5, 0.3, 4.0), "bellis": (4.2, 1.3, 5.5), "crocus": (5.6, 2.1, 6.3)}
"""Mean of each column by species."""
_ROWS_OF_SPECIES = 60


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(init)


def init(
    folder: Annotated[Path, typer.Argument(help="The folder to write; default: the current one.")] = Path("."),
) -> None:
    """Write a small project: a job, its data, a loss of your own and a test. Existing files are not overwritten."""
    new = write_files(folder, project_files())
    console = out()
    for path in new:
        console.print(Text(f"wrote {path}"))
    place = shlex.quote(str(folder))
    console.print(Text(f"Try the loss and the job:  tapeworks component test {place} --data-root {place}"))
    console.print(Text(f"Run a server:              tapeworks serve --components {place} --data-root {place}"))
    job = "" if folder == Path(".") else " " + shlex.quote(str(folder / "job.json"))
    console.print(Text(f"Then, in another terminal: tapeworks submit{job} --watch"))


def project_files() -> dict[str, bytes]:
    """Path below the project's folder → content."""
    texts = {
        "job.json": json.dumps(_JOB, indent=2) + "\n",
        "flowers.csv": _table(),
        "my_losses.py": _LOSS,
        "tests/test_my_losses.py": _TEST,
    }
    return {name: text.encode() for name, text in texts.items()}


def _table() -> str:
    """Measurements of three invented species, the same in every project."""
    drawn = random.Random(7)  # noqa: S311 — data, no secret
    rows = [
        (*(f"{max(0.1, drawn.gauss(mean, 0.08 * mean + 0.05)):.1f}" for mean in centre), species)
        for species, centre in _CENTRES.items()
        for _ in range(_ROWS_OF_SPECIES)
    ]
    drawn.shuffle(rows)
    return "\n".join(["petal_length,petal_width,height,species", *(",".join(row) for row in rows)]) + "\n"
