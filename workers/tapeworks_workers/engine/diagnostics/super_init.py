"""Objects whose `__init__` never called `super().__init__()`: Keras then fails later, in words that do not say so."""

from __future__ import annotations

from typing import Any

import keras

HINT = "Call super().__init__(**kwargs) as the first statement of __init__, and take **kwargs in its arguments."

_MADE_BY_INIT = (
    (keras.layers.Layer, "_loss_ids"),  # models are layers
    (keras.metrics.Metric, "_dtype_policy"),
    (keras.losses.Loss, "_dtype_policy"),
    (keras.optimizers.Optimizer, "_lock"),
)
"""A base, and an attribute that its `__init__` makes and without which its own methods fail."""


def missing_super_call(made: Any) -> str | None:
    """What to say of an object whose base was never initialised; None where all is well."""
    for base, attribute in _MADE_BY_INIT:
        if isinstance(made, base) and attribute not in vars(made):
            if base is keras.losses.Loss and type(made).__call__ is not base.__call__:
                return None  # a loss that does everything itself needs nothing of its base
            return f"{type(made).__name__}.__init__ does not call super().__init__()"
    return None
