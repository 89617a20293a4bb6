"""`lookahead`: Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back" (2019), arXiv:1907.08610."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tapeworks import component

_EXAMPLE = {"config": {"inner": {"component": "keras/Adam"}}}


@component("lookahead", example=_EXAMPLE)
class Lookahead(keras.optimizers.Optimizer):
    """Another optimizer takes k steps; then the weights go back to `slow + alpha (fast - slow)`, where they go on from.

    Costs one more copy of the weights, of their shapes and dtypes, and `k` steps apart one pass over them. The state
    is the inner optimizer's and the slow weights: saved and restored, training goes on as if it had not stopped. The
    inner optimizer keeps its own state (momentum) over the steps back, as the paper's experiments do.

    Learning rate, schedule, weight decay and clipping are the inner optimizer's: give them there.

    Args:
        inner: the optimizer that takes the steps.
        k: updates between two steps back; 1 or more.
        alpha: how much of the way the slow weights follow; above 0, at most 1, which is the inner optimizer alone.
    """

    def __init__(
        self, inner: keras.optimizers.Optimizer, k: int = 5, alpha: float = 0.5, name: str = "lookahead"
    ) -> None:
        if k < 1:
            raise ValueError(f"k must be 1 or more, not {k}")
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha must be above 0 and at most 1, not {alpha}")
        super().__init__(learning_rate=0.0, name=name)
        self.inner = inner
        self.k = k
        self.alpha = alpha

    def build(self, variables: Any) -> None:
        if self.built:
            return
        variables = list(variables)
        self.slow = [self.add_variable_from_reference(variable, name="slow") for variable in variables]
        self.inner.build(variables)
        super().build(variables)

    @property
    def variables(self) -> list[Any]:
        """Own ones (the slow weights among them), then the inner optimizer's."""
        return [*super().variables, *self.inner.variables]

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """One step of the inner optimizer, and after every k-th the step back, for all variables it was built with."""
        if not self.built:
            self.build(trainable_variables)
        before = self._taken()
        tf.cond(before % self.k == 0, self._remember, _nothing)
        self.inner.apply(grads, trainable_variables)
        after = self._taken()
        # Where the inner optimizer accumulates gradients, a call need not be a step.
        tf.cond(tf.logical_and(after > before, after % self.k == 0), self._step_back, _nothing)

    def _taken(self) -> Any:
        return tf.identity(tf.convert_to_tensor(self.inner.iterations))

    def _remember(self) -> Any:
        # The slow weights are the weights themselves where a cycle begins: read there, they are right as well where
        # weights were loaded after the optimizer was built.
        for slow, variable in zip(self.slow, self._trainable_variables, strict=True):
            slow.assign(variable)
        return tf.constant(True)

    def _step_back(self) -> Any:
        for slow, variable in zip(self.slow, self._trainable_variables, strict=True):
            start = tf.convert_to_tensor(slow)
            moved = start + tf.constant(self.alpha, start.dtype) * (tf.convert_to_tensor(variable) - start)
            constraint = getattr(variable, "constraint", None)
            variable.assign(moved if constraint is None else constraint(moved))
        return tf.constant(True)

    @property
    def iterations(self) -> Any:
        """The inner optimizer's: updates taken."""
        return self.inner.iterations

    @property
    def learning_rate(self) -> Any:
        """The inner optimizer's."""
        return self.inner.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner.learning_rate = learning_rate

    def scale_loss(self, loss: Any) -> Any:
        return self.inner.scale_loss(loss)

    def finalize_variable_values(self, var_list: Any) -> None:
        self.inner.finalize_variable_values(var_list)


def _nothing() -> Any:
    return tf.constant(False)
