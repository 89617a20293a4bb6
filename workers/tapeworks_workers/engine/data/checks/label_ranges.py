"""Labels that no output stands for, seen where a loss indexes by them.

TensorFlow raises for such a label on a CPU and computes NaN or zeros elsewhere. What counts is the label that reaches
the indexing operation: a loss may replace its void labels (255, -1) before it. The smallest and largest label are kept
on the device, by number of classes, and read with every report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure, Location
from tapeworks_workers.engine.diagnostics.retracing import Note
from tapeworks_workers.engine.graph.autograph import outside_trace, peek


@dataclass
class LabelRanges:
    """The labels that one loss indexed by. `component` is its name in the spec."""

    component: str
    ignored: int | None = None
    """A label that the loss says it leaves out: its `ignore_class`."""
    certain: bool = False
    """Whether zeros in the place of a one-hot are a mistake: known of Keras' losses and of the built-in ones."""
    _raising: dict[int, tf.Variable] = field(default_factory=dict)
    """Number of classes → [smallest, largest] label, int64, where TensorFlow raises on a CPU."""
    _zeros: dict[int, tf.Variable] = field(default_factory=dict)
    """The same where a label out of range becomes zeros on every device, as in tf.one_hot."""

    def keep(self, operations: Sequence[tf.Operation], y_true: str, y_pred: str) -> None:
        """Add to the graph what keeps the labels of these operations, which a call of the loss added to it.

        `y_true`, `y_pred`: the names of their tensors in that graph.
        """
        of_y = _derived(operations, y_true, y_pred)
        for operation in operations:
            if operation.type == "SparseSoftmaxCrossEntropyWithLogits":
                logits, labels = operation.inputs
                self._keep(self._raising, labels, logits.shape[-1])
            elif operation.type == "GatherV2" and operation.inputs[1].name in of_y:
                axis = tf.get_static_value(operation.inputs[2])
                table = operation.inputs[0].shape
                if axis is not None and table.rank is not None:
                    self._keep(self._raising, operation.inputs[1], table[int(axis)])
            elif operation.type == "OneHot" and operation.inputs[0].name in of_y:
                depth = tf.get_static_value(operation.inputs[1])
                ranges = self._raising if self.certain else self._zeros
                self._keep(ranges, operation.inputs[0], None if depth is None else int(depth))

    def keep_of(self, labels: tf.Tensor, classes: int) -> None:
        """The same for labels that are known to be indexed by."""
        self._keep(self._raising, labels, classes)

    def _keep(self, ranges: dict[int, tf.Variable], labels: tf.Tensor, classes: int | None) -> None:
        if classes is None or not labels.dtype.is_integer:
            return
        if classes not in ranges:
            with outside_trace():
                ranges[classes] = tf.Variable([0, 0], dtype=tf.int64, trainable=False, name="label_range")
        labels = tf.cast(labels, tf.int64)
        if self.ignored is not None:
            labels = tf.where(labels == self.ignored, tf.zeros_like(labels), labels)
        low, high = tf.unstack(ranges[classes])
        seen = tf.stack([tf.minimum(low, tf.reduce_min(labels)), tf.maximum(high, tf.reduce_max(labels))])
        ranges[classes].assign(seen)

    def variables(self) -> list[tf.Variable]:
        """What holds the ranges: no state of the training, for they are read after each epoch."""
        return [*self._raising.values(), *self._zeros.values()]

    def beyond(self) -> list[tf.Tensor]:
        """Whether a label was seen that no output stands for, on the device; [] where none can be."""
        return [
            (seen[0] < 0) | (seen[1] >= classes)
            for ranges in (self._raising, self._zeros)
            for classes, seen in ranges.items()
        ]

    def check(self) -> list[Note]:
        """Read what was seen. Raises JobFailure `invalid_data`; notes where zeros may be what the loss means."""
        for classes, label in _outside(self._raising):
            raise out_of_range(label, classes, self.component)
        return [
            Note(
                FailureCode.INVALID_DATA,
                f"loss {self.component!r} makes a one-hot of the label {label} with {classes} classes: it is all zeros",
                "Map the labels to 0 … classes-1; if the loss leaves this label out on purpose, give it the attribute "
                f"ignore_class = {label}.",
                Location(component=self.component),
            )
            for classes, label in _outside(self._zeros)
        ]


def _outside(ranges: dict[int, tf.Variable]) -> list[tuple[int, int]]:
    """(classes, label) for each range that a label left."""
    found = []
    for classes, seen in ranges.items():
        low, high = peek(seen)
        if low < 0 or high >= classes:
            found.append((classes, int(low) if low < 0 else int(high)))
    return found


def _derived(operations: Sequence[tf.Operation], y_true: str, y_pred: str) -> set[str]:
    """Names of tensors that are computed from y and not from the outputs."""
    of_y, of_outputs = {y_true}, {y_pred}
    for operation in operations:
        given = {tensor.name for tensor in operation.inputs}
        made = {tensor.name for tensor in operation.outputs}
        if given & of_outputs:
            of_outputs |= made
        elif given & of_y:
            of_y |= made
    return of_y


def out_of_range(label: int, classes: int, component: str | None) -> JobFailure:
    """The failure for a label that no output stands for."""
    return JobFailure(
        FailureCode.INVALID_DATA,
        f"the data holds the label {label}, the model has {classes} outputs: labels must lie in 0 … {classes - 1}",
        hint=f"Give the model {label + 1} outputs, or map the labels to 0 … {classes - 1}."
        if label >= classes
        else "Map negative labels to 0 … outputs-1, or give ignore_class where the loss has it; rows without a label "
        'are left out by {"op": "drop_missing", "fields": ["y"]} in data.pipeline.',
        location=Location(component=component),
    )


def takes_labels(y_true: tf.Tensor, y_pred: tf.Tensor) -> bool:
    """Whether integer y hold one label for each row of outputs."""
    if y_true.shape.rank is None or not y_pred.shape.rank or not y_true.dtype.is_integer:
        return False
    one_each = y_true.shape.rank == y_pred.shape.rank - 1 or (
        y_true.shape.rank == y_pred.shape.rank and y_true.shape[-1] == 1
    )
    return one_each and y_pred.shape[-1] is not None and y_pred.shape[-1] > 1
