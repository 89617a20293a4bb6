"""`focal`: focal loss of Lin et al., "Focal Loss for Dense Object Detection" (2017), arXiv:1708.02002."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tapeworks import component

_EXAMPLE = {
    "config": {"gamma": 2.0},
    "y_true": tf.TensorSpec([None], tf.int64),
    "y_pred": tf.TensorSpec([None, 3], tf.float32),
}


@component("focal", example=_EXAMPLE)
class Focal(keras.losses.Loss):
    """Cross-entropy that turns from the easy examples to the hard ones: `-alpha_t (1 - p_t)^gamma log p_t`.

    Outputs of shape `(…, 1)` or `(n,)` are binary; `y` is 0 or 1 (or between). Outputs of shape `(…, k)` are
    k classes; `y` is sparse, `(…)` or `(…, 1)`, or one-hot, `(…, k)`. One value an example is returned.

    Args:
        gamma: how strongly easy examples are weighed down; 0 is cross-entropy.
        alpha: binary: the weight of class 1, with 1 - alpha for class 0, or `[weight of 0, weight of 1]`;
            multi-class: one factor for all, or a list with one for each class.
        from_logits: whether outputs are logits (True) or probabilities.
    """

    label_domain = (0.0, 1.0)

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | list[float] | None = None,
        from_logits: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if gamma < 0:
            raise ValueError(f"gamma must be 0 or more, not {gamma}")
        if any(value < 0 for value in (alpha if isinstance(alpha, (list, tuple)) else [alpha or 0.0])):
            raise ValueError(f"alpha must be 0 or more, not {alpha}")
        self.gamma = gamma
        self.alpha = alpha
        self.from_logits = from_logits

    def call(self, y_true: Any, y_pred: Any) -> Any:
        y_pred = tf.convert_to_tensor(y_pred)
        rank = y_pred.shape.rank
        classes = 1 if rank == 1 else y_pred.shape[-1]
        if rank is None or classes is None:
            raise ValueError(f"focal needs outputs whose last dimension is known, not {y_pred.shape}")
        if classes == 1:
            return self._binary(_of_rank(tf.cast(y_true, y_pred.dtype), rank), y_pred)
        return self._categorical(_one_hot(tf.convert_to_tensor(y_true), y_pred, classes), y_pred, classes)

    def _binary(self, y: Any, y_pred: Any) -> Any:
        # log p and log(1 - p) by softplus: exact, with finite gradients, however saturated the logit.
        if self.from_logits:
            log_p, log_q = -tf.nn.softplus(-y_pred), -tf.nn.softplus(y_pred)
        else:
            p = _clipped(y_pred)
            log_p, log_q = tf.math.log(p), tf.math.log1p(-p)
        weight_0, weight_1 = self._binary_weights()
        loss = -weight_1 * y * tf.exp(self.gamma * log_q) * log_p
        loss -= weight_0 * (1.0 - y) * tf.exp(self.gamma * log_p) * log_q
        return loss if loss.shape.rank == 1 else tf.reduce_mean(loss, axis=-1)

    def _categorical(self, y: Any, y_pred: Any, classes: int) -> Any:
        if self.from_logits:
            log_p, log_rest = tf.nn.log_softmax(y_pred), _log_rest(y_pred, classes)
        else:
            p = _clipped(y_pred / tf.reduce_sum(y_pred, axis=-1, keepdims=True))
            log_p, log_rest = tf.math.log(p), tf.math.log1p(-p)
        alpha = self.alpha if self.alpha is not None else 1.0
        if isinstance(alpha, (list, tuple)) and len(alpha) != classes:
            raise ValueError(f"alpha has {len(alpha)} weights for {classes} classes")
        weights = tf.constant(alpha, y_pred.dtype) * y
        # Where y is 0 the term is 0, and so is its gradient: log_p and log_rest are finite everywhere.
        return -tf.reduce_sum(weights * tf.exp(self.gamma * log_rest) * log_p, axis=-1)

    def _binary_weights(self) -> tuple[float, float]:
        if self.alpha is None:
            return 1.0, 1.0
        if isinstance(self.alpha, (list, tuple)):
            if len(self.alpha) != 2:
                raise ValueError(f"alpha has {len(self.alpha)} weights for the 2 classes of a binary output")
            return self.alpha[0], self.alpha[1]
        if self.alpha > 1:
            raise ValueError(f"alpha must be at most 1 for a binary output, not {self.alpha}")
        return 1.0 - self.alpha, self.alpha


def _log_rest(logits: Any, classes: int) -> Any:
    """`log(1 - p_k)` for each class k: the log-sum-exp of the other logits less that of all, never 1 - p itself."""
    own = tf.eye(classes, dtype=tf.bool)
    others = tf.where(own, tf.constant(float("-inf"), logits.dtype), logits[..., tf.newaxis, :])
    return tf.reduce_logsumexp(others, axis=-1) - tf.reduce_logsumexp(logits, axis=-1, keepdims=True)


def _clipped(p: Any) -> Any:
    epsilon = tf.constant(keras.config.epsilon(), p.dtype)
    return tf.clip_by_value(p, epsilon, 1.0 - epsilon)


def _of_rank(y: Any, rank: int) -> Any:
    """y as `(n,)` or `(n, 1)`, like the outputs: the one against the other would broadcast to n × n."""
    if y.shape.rank == rank - 1:
        return y[..., tf.newaxis]
    if y.shape.rank == rank + 1:
        return tf.squeeze(y, axis=-1)
    return y


def _one_hot(y: Any, y_pred: Any, classes: int) -> Any:
    """Sparse labels as one-hot ones; one-hot labels as they are."""
    if y.shape.rank == y_pred.shape.rank:
        if y.shape[-1] != 1:
            return tf.cast(y, y_pred.dtype)
        y = tf.squeeze(y, axis=-1)
    return tf.one_hot(tf.cast(y, tf.int32), classes, dtype=y_pred.dtype)
