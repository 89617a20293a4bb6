"""Variables that the first epoch did not change: a gradient that is always zero trains nothing and fails nowhere.

The compiled step has no part in it. Small variables are copied before the first step and compared after the epoch; for
optimizers that sum the squares of gradients (Adam and its kin), their sums say the same of variables of any size.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tapeworks_workers.engine.models.layer_paths import listed
from tapeworks_workers.engine.reporting import Reporter
from tapeworks_workers.engine.step.assembly import Assembly

CODE = "zero_gradient"
COPIED_BYTES = 64 << 20
"""Of all copies together, the smallest variables first."""
ENOUGH_STEPS = 5
"""What begins at zero (a gate, a low-rank update) hides other gradients in the first step or two."""


class UnchangedVariables:
    """Made before the first step; `report` after the first epoch."""

    def __init__(self, assembly: Assembly) -> None:
        self._assembly = assembly
        self._copies: dict[int, Any] = {}
        left = COPIED_BYTES
        variables = [variable for owned in assembly.owned.values() for variable in owned]
        for variable in sorted(variables, key=_bytes):
            left -= _bytes(variable)
            if left < 0:
                break
            self._copies[id(variable)] = tf.identity(variable.value)

    def report(self, reporter: Reporter, steps: int) -> None:
        """Report what `steps` steps left as it was, by optimizer."""
        if steps < ENOUGH_STEPS:
            return
        for name, variables in self._assembly.owned.items():
            optimizer = self._assembly.optimizers[name]
            if not variables or float(optimizer.learning_rate) == 0.0:
                continue
            if int(optimizer.iterations) == 0:
                reporter.diagnostic(
                    CODE,
                    f"optimizer {name!r} was not applied once in the first {steps} steps",
                    hint="`when` was false in every step, gradient_accumulation is larger than the epoch, or every "
                    "gradient overflowed.",
                )
                continue
            unchanged = [variable.path for variable in variables if self._idle(optimizer, variable)]
            if unchanged:
                reporter.diagnostic(
                    CODE,
                    f"optimizer {name!r}: {len(unchanged)} of {len(variables)} variables had a gradient of zero in "
                    f"each of the first {steps} steps, or updates too small to change them: {listed(unchanged)}",
                    hint="Look for a saturated or dead activation, a product with zero, a mask, tf.stop_gradient, "
                    "rounding or argmax between the variable and the loss; freeze what is meant to stay as it is.",
                )
        self._copies.clear()

    def _idle(self, optimizer: Any, variable: Any) -> bool:
        if id(variable) in self._assembly.run.unreached:
            return False  # reported when the step was traced
        squares = getattr(optimizer, "_velocities", None)
        if squares:
            index = optimizer._get_variable_index(variable)
            if index < len(squares) and squares[index] is not None:
                return not bool(tf.reduce_any(squares[index].value != 0))
        before = self._copies.get(id(variable))
        return before is not None and not bool(tf.reduce_any(before != variable.value))


def _bytes(variable: Any) -> int:
    return int(variable.value.shape.num_elements() or 0) * int(variable.value.dtype.size)
