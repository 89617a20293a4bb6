"""`warmup_cosine`: a linear warm-up, then half a cosine.

Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (2016), arXiv:1608.03983, equation 5 without
restarts; the warm-up of Goyal et al., "Accurate, Large Minibatch SGD" (2017), arXiv:1706.02677.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from tapeworks import component

_EXAMPLE = {"config": {"peak": 0.1, "warmup_steps": 10, "decay_steps": 100}}


@component("warmup_cosine", example=_EXAMPLE)
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """`peak · t / warmup_steps`, then `final + (peak - final) (1 + cos(pi s)) / 2` with s from 0 to 1, then `final`.

    t counts updates from 0, a scalar of any integer or float dtype; the rate is a scalar of Keras' floatx. The first
    update of a warm-up has the rate 0, as in `keras/CosineDecay`, whose values these are.

    Args:
        peak: the rate at the end of the warm-up.
        warmup_steps: updates until `peak`; 0: none.
        decay_steps: updates from `peak` to `final`, counted from the end of the warm-up.
        final: the rate from then on.
    """

    def __init__(self, peak: float, warmup_steps: int, decay_steps: int, final: float = 0.0) -> None:
        super().__init__()
        if peak <= 0 or final < 0:
            raise ValueError(f"peak must be positive and final 0 or more, not {peak} and {final}")
        if warmup_steps < 0 or decay_steps < 1:
            raise ValueError(f"warmup_steps must be 0 or more, decay_steps 1 or more: {warmup_steps}, {decay_steps}")
        self.peak = peak
        self.warmup_steps = warmup_steps
        self.decay_steps = decay_steps
        self.final = final

    def __call__(self, step: Any) -> Any:
        # In float64: float32 counts updates exactly up to 2**24 only.
        t = tf.cast(step, tf.float64)
        rising = self.peak * t / max(self.warmup_steps, 1)
        share = tf.clip_by_value((t - self.warmup_steps) / self.decay_steps, 0.0, 1.0)
        falling = self.final + 0.5 * (self.peak - self.final) * (1.0 + tf.cos(math.pi * share))
        return tf.cast(tf.where(t < self.warmup_steps, rising, falling), keras.config.floatx())
