"""Whether a loss and the outputs it is given agree about logits and probabilities.

Neither mistake raises: cross-entropy of logits read as probabilities trains badly and a softmax of a softmax trains
slowly. Only what the graph shows plainly is reported: outputs that come from a softmax or sigmoid, or straight from the
weighted sum of a dense layer or convolution.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

_PASSED_THROUGH = frozenset({"Identity", "Reshape", "Squeeze", "ExpandDims", "Cast", "Transpose", "StopGradient"})
_PROBABILITIES = frozenset({"Softmax", "Sigmoid"})
_SUMS = frozenset({"MatMul", "BatchMatMulV2", "Einsum", "Conv1D", "Conv2D", "Conv3D"})
_ADDED = frozenset({"BiasAdd", "AddV2"})


def mismatch(loss: Any, y_pred: Any) -> tuple[str, str] | None:
    """Message and hint for a loss that takes the one and is given the other; None where they agree or none knows."""
    wanted = getattr(loss, "from_logits", getattr(loss, "_fn_kwargs", {}).get("from_logits"))
    if not isinstance(wanted, bool) or not tf.is_symbolic_tensor(y_pred):
        return None
    operation = _origin(y_pred)
    if wanted and operation.type in _PROBABILITIES:
        return (
            f"takes logits (from_logits is true), and the outputs come from a {operation.type.lower()}",
            'Give it {"from_logits": false}, or leave the last activation out.',
        )
    if not wanted and _is_weighted_sum(operation):
        return (
            "takes probabilities (from_logits is false), and the outputs are logits, no softmax or sigmoid after the "
            "last layer",
            'Give it {"from_logits": true}, or end the model with one.',
        )
    return None


def _origin(tensor: tf.Tensor) -> tf.Operation:
    """The operation that made a tensor's values, whatever changed its shape or dtype since."""
    operation = tensor.op
    while operation.type in _PASSED_THROUGH:
        operation = operation.inputs[0].op
    return operation


def _is_weighted_sum(operation: tf.Operation) -> bool:
    if operation.type in _ADDED:  # of the bias
        operation = _origin(operation.inputs[0])
    return operation.type in _SUMS
