"""The signature `classify`: the names of classes and their scores, where a job's labels have names.

`found(…)` decides from a model's outputs and its loss whether a model answers one name for each example, and how its
outputs become scores; `answers(…)` computes them in the exported graph, `expected(…)` from stored outputs when the
bundle is verified.

| outputs | scores |
|---|---|
| `(batch, C)` for C names | softmax of logits, sigmoid for a binary loss; else as they are |
| `(batch, 1)` or `(batch,)` for two names | `[1 - p, p]`, p the sigmoid of a logit, or the output itself |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

CLASSIFY = "classify"
"""Its name. It gives `class` (batch,), the name with the largest score; `classes` (batch, C), all names; `scores`."""
Activation = Literal["softmax", "sigmoid", "none"]


def found(outputs: Mapping[str, Any], loss: Any, names: Any) -> tuple[dict[str, Any] | None, str | None]:
    """What the manifest says of the signature, or None and why there is none.

    Args:
        outputs: the structure of a probe's outputs (`nests.Arrays.add`).
        loss: the `RoleLoss` of the model; None where it has none.
        names: of the classes: a list, or one by branch of `zip`.
    """
    if loss is None:
        return None, "the model has no loss of its own"
    if not isinstance(names, Sequence):
        return None, "the labels of several sources have names"
    if outputs["kind"] != "tensor" or not tf.as_dtype(outputs["dtype"]).is_floating:
        return None, "the model has several outputs" if outputs["kind"] != "tensor" else "its outputs are no floats"
    shape, count = outputs["shape"], len(names)
    shown = f"({', '.join(['batch', *map(str, shape[1:])])})"
    of_each = len(shape) == 2 and shape[1] == count and count > 1
    if not of_each and not (count == 2 and (len(shape) == 1 or shape[1:] == [1])):
        return None, f"its outputs are {shown}, and there are {count} classes"
    given = _from_logits(loss)
    if given is None and not of_each:
        return None, "its loss does not say by from_logits whether the one output is a logit or a probability"
    activation: Activation = "none"
    if given:
        activation = "softmax" if of_each and not _binary(loss) else "sigmoid"
    return {"activation": activation, "outputs": "one_each" if of_each else "of_the_second"}, None


def _losses(loss: Any) -> list[Any]:
    return [one.loss for one in loss.losses]


def _from_logits(loss: Any) -> bool | None:
    """What the losses say; None where none does, or they differ."""
    said = {getattr(one, "from_logits", getattr(one, "_fn_kwargs", {}).get("from_logits")) for one in _losses(loss)}
    return said.pop() if len(said) == 1 and isinstance(next(iter(said)), bool) else None


def _binary(loss: Any) -> bool:
    kinds = (keras.losses.BinaryCrossentropy, keras.losses.BinaryFocalCrossentropy)
    return all(isinstance(one, kinds) for one in _losses(loss))


def answers(about: Mapping[str, Any], names: Sequence[str], outputs: tf.Tensor) -> dict[str, tf.Tensor]:
    """What the signature gives for a model's outputs; scores are float32, or float64 where the outputs are."""
    values = outputs if outputs.dtype == tf.float64 else tf.cast(outputs, tf.float32)
    if about["outputs"] == "of_the_second":
        values = tf.reshape(values, [-1])
    if about["activation"] != "none":
        values = tf.nn.softmax(values) if about["activation"] == "softmax" else tf.sigmoid(values)
    scores = values if about["outputs"] == "one_each" else tf.stack([1 - values, values], -1)
    listed = tf.constant(list(names), tf.string)
    classes = tf.broadcast_to(listed, [tf.shape(scores)[0], len(names)])
    return {"class": tf.gather(listed, tf.argmax(scores, -1)), "classes": classes, "scores": scores}


def expected(about: Mapping[str, Any], outputs: np.ndarray) -> np.ndarray:
    """The scores of stored outputs, by NumPy, in the dtype of the signature."""
    values = outputs.astype(np.float64)
    if about["outputs"] == "of_the_second":
        values = values.reshape(-1)
    if about["activation"] == "softmax":
        powers = np.exp(values - values.max(-1, keepdims=True))
        values = powers / powers.sum(-1, keepdims=True)
    elif about["activation"] == "sigmoid":
        values = 0.5 * (1 + np.tanh(0.5 * values))
    scores = values if about["outputs"] == "one_each" else np.stack([1 - values, values], -1)
    return scores.astype(np.float64 if outputs.dtype == np.float64 else np.float32)
