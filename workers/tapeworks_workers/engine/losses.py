"""The losses of a spec as a step calls them: `loss(y_true, y_pred, sample_weight=None)` gives a scalar.

Two mistakes that TensorFlow lets pass, or answers differently on each device, are caught here:
labels outside the model's outputs (their range is kept on device and read at every report) and a
custom loss that broadcasts y of shape (n,) against outputs (n, 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
from keras.src.losses.losses import LossFunctionWrapper

from tapeworks.errors import FailureCode, JobFailure, Location
from tapeworks_workers.engine import logits
from tapeworks_workers.engine import sources_of_errors as places
from tapeworks_workers.engine.error_owners import of_part, shapes
from tapeworks_workers.engine.traces import Note
from tapeworks_workers.engine.tracing import engine_code, outside_trace, peek

_PROBE = 7
"""A batch size that no other dimension is likely to have."""
_INDEXES_BY_LABEL = frozenset({"SparseSoftmaxCrossEntropyWithLogits", "OneHot"})


class SpecLoss:
    """One loss of the spec. `component` is its name there, for messages."""

    def __init__(self, loss: Any, *, name: str, component: str) -> None:
        self.loss = loss
        self.name = name
        self.component = component
        self.labels: tf.Variable | None = None
        """[smallest, largest] label seen, int64; made when a trace shows that the loss indexes by label."""
        self.classes: int | None = None
        self.notes: list[Note] = []
        """What was found while tracing and is no failure."""

    @engine_code
    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> tf.Tensor:
        if tf.is_tensor(y_true) and tf.is_tensor(y_pred):
            self._check(y_true, y_pred)
        with of_part(f"loss {self.component!r} {shapes(y_true, y_pred)}", self.component):
            return self.loss(y_true, y_pred, sample_weight=sample_weight)

    def _check(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> None:
        if isinstance(y_true, tf.RaggedTensor | tf.SparseTensor) or isinstance(y_pred, tf.RaggedTensor):
            return
        if y_true.shape.rank is None or y_pred.shape.rank is None or y_pred.shape.rank < 1:
            return
        self._check_logits(y_pred)
        outputs = y_pred.shape[-1]
        if y_true.shape.rank == 1 and y_pred.shape.rank == 2 and outputs == 1:
            self._check_broadcast(y_true, y_pred)
        one_label_each = y_true.shape.rank == y_pred.shape.rank - 1 or (
            y_true.shape.rank == y_pred.shape.rank and y_true.shape[-1] == 1
        )
        if y_true.dtype.is_integer and one_label_each and outputs is not None and outputs > 1:
            self._keep_range(y_true, y_pred)

    def _check_logits(self, y_pred: tf.Tensor) -> None:
        told = logits.mismatch(self.loss, y_pred)
        if told is not None and not self.notes:  # validation is traced too, and says the same
            message, hint = told
            place = Location(component=self.component)
            self.notes.append(Note("from_logits", f"loss {self.component!r} {message}", hint, place))

    def _check_broadcast(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> None:
        if isinstance(self.loss, LossFunctionWrapper):
            return  # Keras' own function losses squeeze
        for operation in self._operations(y_true, y_pred):
            crossed = (out for out in operation.outputs if out.shape.rank and out.shape[:2] == [_PROBE, _PROBE])
            if (output := next(crossed, None)) is not None:
                raise JobFailure(
                    FailureCode.BROADCAST_LOSS,
                    f"loss {self.component!r} broadcasts y of shape (n,) against outputs of shape (n, 1) to (n, n)",
                    hint="Squeeze y_pred or expand y_true in its call: tf.squeeze(y_pred, -1), or y_true[:, None].",
                    location=places.of_tensor(output) or Location(component=self.component),
                )

    def _operations(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> list[tf.Operation]:
        """The operations of `call` on a batch of `_PROBE` examples; [] where it cannot be traced."""
        graph = tf.Graph()
        with graph.as_default():
            dtype = getattr(self.loss, "dtype", None) or keras.config.floatx()
            tensors = [
                tf.compat.v1.placeholder(dtype, [_PROBE, *tensor.shape.as_list()[1:]]) for tensor in (y_true, y_pred)
            ]
            try:
                getattr(self.loss, "call", self.loss)(*tensors)
            except Exception:
                return []  # the real trace follows and tells it with its place
            return graph.get_operations()

    def _keep_range(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> None:
        if self.labels is None:
            sparse = isinstance(self.loss, keras.losses.SparseCategoricalCrossentropy)
            if not sparse and not _INDEXES_BY_LABEL & {op.type for op in self._operations(y_true, y_pred)}:
                return
            with outside_trace():
                self.labels = tf.Variable([0, 0], dtype=tf.int64, trainable=False, name="label_range")
            self.classes = y_pred.shape[-1]
        labels = tf.cast(y_true, tf.int64)
        ignored = getattr(self.loss, "ignore_class", None)
        if ignored is not None:
            labels = tf.where(labels == ignored, tf.zeros_like(labels), labels)
        low, high = tf.unstack(self.labels)
        self.labels.assign(tf.stack([tf.minimum(low, tf.reduce_min(labels)), tf.maximum(high, tf.reduce_max(labels))]))

    def labels_beyond(self) -> list[tf.Tensor]:
        """Whether a label was seen that no output stands for, on the device; [] where none can be."""
        if self.labels is None or self.classes is None:
            return []
        low, high = tf.unstack(self.labels)
        return [(low < 0) | (high >= self.classes)]

    def check_labels(self) -> None:
        """Read the range of labels seen so far. Raises JobFailure `invalid_data` with the offending one."""
        if self.labels is None or self.classes is None:
            return
        low, high = peek(self.labels)
        if low < 0 or high >= self.classes:
            raise out_of_range(int(low) if low < 0 else int(high), self.classes, self.component)


def out_of_range(label: int, classes: int, component: str | None) -> JobFailure:
    """The failure for a label that no output stands for."""
    return JobFailure(
        FailureCode.INVALID_DATA,
        f"the data holds the label {label}, the model has {classes} outputs: labels must lie in 0 … {classes - 1}",
        hint=f"Give the model {label + 1} outputs, or map the labels to 0 … {classes - 1}."
        if label >= classes
        else "Map negative labels to 0 … outputs-1, or give ignore_class where the loss has it.",
        location=Location(component=component),
    )


class Losses(dict[str, Any]):
    """Name → loss; one that the spec does not fill is told by name."""

    def __missing__(self, name: str) -> Any:
        raise JobFailure(
            FailureCode.INVALID_SPEC, f"the step uses the loss {name!r}, the spec's losses have {sorted(self)}"
        )


class OutputLosses:
    """The weighted sum of a loss for each named output."""

    def __init__(self, losses: Mapping[str, tuple[SpecLoss, float]]) -> None:
        self.losses = dict(losses)

    @property
    def notes(self) -> list[Note]:
        """See `SpecLoss.notes`."""
        return [note for loss, _ in self.losses.values() for note in loss.notes]

    @engine_code
    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> tf.Tensor:
        total: Any = 0.0
        for name, (loss, weight) in self.losses.items():
            for what, nest in (("y", y_true), ("the model's outputs", y_pred)):
                if not isinstance(nest, Mapping) or name not in nest:
                    have = sorted(nest) if isinstance(nest, Mapping) else type(nest).__name__
                    raise JobFailure(
                        FailureCode.INVALID_SPEC, f"losses name the output {name!r}, but {what} has {have}"
                    )
            weights = sample_weight.get(name) if isinstance(sample_weight, Mapping) else sample_weight
            total += weight * loss(y_true[name], y_pred[name], sample_weight=weights)
        return total

    def labels_beyond(self) -> list[tf.Tensor]:
        """See `SpecLoss.labels_beyond`."""
        return [one for loss, _ in self.losses.values() for one in loss.labels_beyond()]

    def check_labels(self) -> None:
        """See `SpecLoss.check_labels`."""
        for loss, _ in self.losses.values():
            loss.check_labels()
