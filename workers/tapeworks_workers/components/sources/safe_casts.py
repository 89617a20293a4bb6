"""Safe casts of columns: a value either keeps its meaning in the element or is refused with its row.

| from → to | refused |
|---|---|
| integer → integer | outside the range of the new dtype |
| integer → float, by default | an integer that the float cannot hold exactly; with an explicit dtype it is rounded |
| float → integer | NaN, infinities, fractions, outside the range |
| float → float | a finite value that becomes infinite |
| number → bool | anything but 0 and 1 |
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

_ROUNDED = "cannot be {0} without rounding; `named` keeps integers, and dtypes of {0} for the column accepts rounding"
Array = np.ndarray[Any, np.dtype[Any]]


class Unfit(ValueError):
    """A value that its dtype cannot hold: the position in its column, and a sentence about it."""

    def __init__(self, position: int, message: str) -> None:
        super().__init__(message)
        self.position = position
        self.message = message


def fitted(values: Array, dtype: str, *, explicit: bool) -> Array:
    """Numbers or booleans as `dtype`. Raises Unfit.

    Args:
        values: a one-dimensional array.
        dtype: the name of a TensorFlow dtype of numbers or bool.
        explicit: whether the spec names the dtype: integers may then be rounded to floats.
    """
    target = np.dtype(tf.as_dtype(dtype).as_numpy_dtype)
    source = values.dtype
    if source == target or source == np.bool_ or not len(values):
        return values.astype(target)
    if target == np.bool_:
        _refuse(~np.isin(values, (0, 1)), values, "is neither 0 nor 1, which bool needs")
        return values.astype(np.bool_)
    if target.kind in "iu":
        return _integers(values, target)
    with np.errstate(over="ignore"):
        result = values.astype(target)
    if source.kind in "iu":
        if not explicit:  # NumPy itself holds int64 to float64 for safe
            _refuse_rounded(values, result)
    elif source.itemsize > target.itemsize:
        _refuse(np.isinf(result) & np.isfinite(values), values, f"is outside the range of {target}")
    return result


def _integers(values: Array, target: np.dtype[Any]) -> Array:
    bounds = np.iinfo(target)
    if values.dtype.kind == "f":
        _refuse(~np.isfinite(values), values, f"cannot be {target}: an integer has no NaN and no infinity")
        _refuse(values != np.floor(values), values, f"cannot be {target} without losing its fraction")
        # As floats: 2**63 itself is the first that is too large.
        _refuse((values < float(bounds.min)) | (values >= float(bounds.max) + 1), values, f"is outside {target}")
    elif not np.can_cast(values.dtype, target):
        _refuse((values < bounds.min) | (values > bounds.max), values, f"is outside {target}")
    return values.astype(target)


def _refuse_rounded(values: Array, result: Array) -> None:
    """Raises Unfit for an integer that its float does not equal."""
    limit = 1 << (np.finfo(result.dtype).nmant + 1)
    if -limit <= int(values.min()) and int(values.max()) <= limit:
        return
    within = result < float(np.iinfo(values.dtype).max)  # rounded up to 2**63 it is no int64 any more
    back = np.where(within, result, 0).astype(values.dtype)
    _refuse(~within | (back != values), values, _ROUNDED.format(result.dtype))


def _refuse(wrong: Any, values: Array, why: str) -> None:
    if wrong.any():
        position = int(np.flatnonzero(wrong)[0])
        raise Unfit(position, f"{values[position]} {why}")
