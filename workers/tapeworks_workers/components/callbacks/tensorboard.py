"""`tensorboard`: event files for TensorBoard, which need no TensorBoard to be written.

The form of scalars and histograms is that of TensorBoard's plugins `scalars` and `histograms`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import tensorflow as tf

from tapeworks import Callback, component
from tapeworks.bounds import Bound

Bins = Annotated[int, Bound(1, 100_000, "the bins of each variable are written to the event file")]


@component("tensorboard")
class TensorBoard(Callback):
    """Writes each epoch's values, the reports between and histograms of the weights below `artifacts/tensorboard/`.

    Scalars are `epoch/NAME` by epoch and `report/NAME` by step; histograms `ROLE/VARIABLE` by epoch, of variables with
    more than one element. Download the job's files and point `tensorboard --logdir` at their folder. Each attempt
    writes a file of its own.

    Args:
        histograms: epochs between histograms of the weights; 0: none.
        bins: of a histogram.
    """

    def __init__(self, histograms: int = 1, bins: Bins = 30) -> None:
        if histograms < 0 or bins < 1:
            raise ValueError("histograms must be 0 or more, bins 1 or more")
        self.histograms, self.bins = histograms, bins
        self._writer: Any = None

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float], run: Any) -> None:
        with self._open(run).as_default():
            for name, value in logs.items():
                _scalar(f"epoch/{name}", value, epoch)
            if self.histograms and epoch % self.histograms == 0:
                for role, model in run.models.items():
                    for variable in model.weights:
                        values = np.asarray(variable.value)
                        if values.size > 1 and values.dtype.kind != "u":
                            _histogram(f"{role}/{variable.path}", values, self.bins, epoch)
        self._writer.flush()

    def on_report(self, step: int, logs: Mapping[str, float], run: Any) -> None:
        with self._open(run).as_default():
            for name, value in logs.items():
                _scalar(f"report/{name}", value, step)

    def _open(self, run: Any) -> Any:
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(run.artifact("tensorboard")))
        return self._writer


def _metadata(plugin: str, data_class: int) -> Any:
    metadata = tf.compat.v1.SummaryMetadata()
    metadata.plugin_data.plugin_name = plugin
    metadata.data_class = data_class
    return metadata


def _scalar(tag: str, value: float, step: int) -> None:
    tf.summary.write(tag, tf.constant(value, tf.float32), step=step, metadata=_metadata("scalars", 1))


def _histogram(tag: str, values: np.ndarray, bins: int, step: int) -> None:
    """Buckets as rows (left edge, right edge, count); what is not finite is left out."""
    flat = values.astype(np.float64).ravel()
    counts, edges = np.histogram(flat[np.isfinite(flat)], bins=bins)
    buckets = np.stack([edges[:-1], edges[1:], counts], axis=1)
    tf.summary.write(tag, tf.constant(buckets, tf.float64), step=step, metadata=_metadata("histograms", 2))
