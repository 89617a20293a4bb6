"""The `example` of a component: what a call of it looks like, read when it is registered.

Interface: `read_example(example, name)` gives the parts `config`, `inputs`, `y_true` and `y_pred` with every leaf as a
`Form` (a shape and a dtype), a `Value` (data that was given), or the TensorFlow spec that was given. Raises
ComponentError in one sentence.

    (None, 8)                          a float32 tensor of this shape, the batch dimension first
    {"shape": (None,), "dtype": "int64"}, ((None,), "int64")
    tf.TensorSpec, tf.RaggedTensorSpec, keras.Input, keras.KerasTensor, keras.InputSpec
    arrays, tensors, numbers, strings  values that the component is tried on as they are
    dicts, lists, tuples               of these

A tuple or list of whole numbers and None is always a shape: `np.array([1, 2])` are values. Nothing here imports
TensorFlow or Keras.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tapeworks.errors import ComponentError

PARTS = ("inputs", "y_true", "y_pred")
_DTYPES = frozenset(
    {
        "float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64",
        "uint8", "uint16", "uint32", "uint64", "bool", "string", "complex64", "complex128",
    }
)  # fmt: skip
_FLOAT = "float32"
_TAKEN = (
    "a shape such as (None, 8), {'shape': (None,), 'dtype': 'int64'}, a tf.TensorSpec, a keras.Input, an array, "
    "or a dict, list or tuple of these"
)


@dataclass(frozen=True)
class Form:
    """A tensor of which only this is known."""

    shape: tuple[int | None, ...]
    dtype: str
    sparse: bool = False
    ragged: bool = False


@dataclass(frozen=True)
class Value:
    """Data that the author gave: an array, a tensor, or a Python value."""

    value: Any


def read_example(example: Any, name: str) -> Mapping[str, Any] | None:
    """The parts of an example. Raises ComponentError naming the place, what stands there and what may."""
    if example is None:
        return None
    if not isinstance(example, Mapping):
        raise ComponentError(
            f"{name}: example is {_shown(example)}, not a dict: write example={{'inputs': …}} or "
            f"{{'y_true': …, 'y_pred': …}}, each {_TAKEN}"
        )
    unknown = [key for key in example if key not in (*PARTS, "config", "dtype")]
    if unknown:
        raise ComponentError(
            f"{name}: example has the key {unknown[0]!r}; it takes 'config', 'inputs', 'y_true', 'y_pred' and 'dtype' "
            "(several inputs: {'inputs': {'a': (None, 8), 'b': (None, 2)}})"
        )
    config = example.get("config", {})
    if not isinstance(config, Mapping):
        raise ComponentError(f"{name}: example['config'] is {_shown(config)}, not a dict of arguments")
    read = _Reading(name)
    dtypes = example.get("dtype")
    found: dict[str, Any] = {"config": dict(config)} if "config" in example else {}
    for part in PARTS:
        if part in example:
            dtype = dtypes
            if isinstance(dtypes, Mapping) and not set(PARTS).isdisjoint(dtypes):
                dtype = dtypes.get(part)
            found[part] = read.nest(example[part], f"example[{part!r}]", dtype)
    return found


@dataclass(frozen=True)
class _Reading:
    """Reads the nests of one component."""

    name: str

    def nest(self, value: Any, where: str, dtype: Any = None) -> Any:
        """`dtype`: of the shapes that have none of their own, by key where it is a dict."""
        if _is(value, "TypeSpec"):
            return value
        if _is(value, "KerasTensor", "InputSpec", "TensorShape", "ShapeDtypeStruct"):
            return self._symbolic(value, where, dtype)
        if isinstance(value, Mapping):
            return self._dict(value, where, dtype)
        if isinstance(value, (list, tuple)):
            return self._sequence(value, where, dtype)
        if isinstance(value, (bool, int, float, str, bytes)) or _is(value, "CompositeTensor", "Variable"):
            return Value(value)
        if hasattr(value, "__array__") and not isinstance(value, type):
            return Value(value)
        raise self._refused(value, where)

    def _symbolic(self, value: Any, where: str, dtype: Any) -> Form:
        shape = value if _is(value, "TensorShape") else value.shape
        if shape is None and getattr(value, "ndim", None) is not None:
            shape = (None,) * value.ndim
        sizes = None if shape is None or getattr(shape, "rank", 0) is None else tuple(shape)
        if sizes is None:
            raise ComponentError(f"{self.name}: {where} has no known rank: give its shape, such as (None, 8)")
        own = getattr(value, "dtype", None)
        flags = {flag: bool(getattr(value, flag, False)) for flag in ("sparse", "ragged")}
        return Form(self._shape(sizes, where), self._dtype(own if own is not None else dtype, where), **flags)

    def _dict(self, value: Mapping[str, Any], where: str, dtype: Any) -> Any:
        if set(value) == {"shape", "dtype"} and _dtype_name(value["dtype"]) is not None and _is_shape(value["shape"]):
            return Form(self._shape(value["shape"], where), self._dtype(value["dtype"], where))
        if not value:
            raise self._refused(value, where)
        return {
            key: self.nest(item, f"{where}[{key!r}]", dtype.get(key) if isinstance(dtype, Mapping) else dtype)
            for key, item in value.items()
        }

    def _sequence(self, value: list[Any] | tuple[Any, ...], where: str, dtype: Any) -> Any:
        if _is_shape(value):
            return Form(self._shape(value, where), self._dtype(dtype, where))
        if len(value) == 2 and _is_shape(value[0]) and _dtype_name(value[1]) is not None:
            return Form(self._shape(value[0], where), self._dtype(value[1], where))
        if isinstance(value, list) and _is_array(value):
            return Value(value)
        dtypes = dtype if isinstance(dtype, (list, tuple)) and len(dtype) == len(value) else [dtype] * len(value)
        items = [self.nest(item, f"{where}[{index}]", dtypes[index]) for index, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)

    def _shape(self, sizes: Any, where: str) -> tuple[int | None, ...]:
        if any(size is not None and size < 1 for size in sizes):
            raise ComponentError(
                f"{self.name}: {where} is {_shown(tuple(sizes))}, which is not a shape: a size is at least 1, and None "
                "where it varies. Write np.array(…) for values"
            )
        return tuple(None if size is None else int(size) for size in sizes)

    def _dtype(self, dtype: Any, where: str) -> str:
        if dtype is None:
            return _FLOAT
        name = _dtype_name(dtype)
        if name is None:
            raise ComponentError(
                f"{self.name}: the dtype of {where} is {_shown(dtype)}; expected one of {', '.join(sorted(_DTYPES))}"
            )
        return name

    def _refused(self, value: Any, where: str) -> ComponentError:
        return ComponentError(f"{self.name}: {where} is {_shown(value)}; it must be {_TAKEN}")


def _is(value: Any, *names: str) -> bool:
    return any(base.__name__ in names for base in type(value).__mro__)


def _is_shape(value: Any) -> bool:
    """A tuple or list of whole numbers and None."""
    return isinstance(value, (list, tuple)) and all(
        size is None or (isinstance(size, int) and not isinstance(size, bool)) for size in value
    )


def _is_array(value: list[Any]) -> bool:
    """A list of Python values, or of such lists: what NumPy would make an array of, and no list of shapes."""
    leaves = list(_leaves(value))
    scalars = all(isinstance(leaf, (bool, int, float, str, bytes)) for leaf in leaves)
    return scalars and any(isinstance(leaf, bool) or not isinstance(leaf, int) for leaf in leaves)


def _leaves(value: Any) -> Any:
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _dtype_name(dtype: Any) -> str | None:
    """The name of a dtype, given as a string, a NumPy or a TensorFlow dtype; None for anything else."""
    if isinstance(dtype, str):
        return dtype if dtype in _DTYPES else None
    name = getattr(dtype, "name", None) or getattr(dtype, "__name__", None)
    return name if isinstance(name, str) and name in _DTYPES else None


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text[:80]} ({type(value).__name__})" if len(text) < 200 else f"a {type(value).__name__}"
