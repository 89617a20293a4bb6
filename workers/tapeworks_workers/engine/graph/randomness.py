"""Where random numbers come from: derived seeds, the Philox pin, and the streams of `run.random_*`.

Every seed is derived from `training.seed` and a name, so that adding a consumer changes no other's
numbers. Keras asks for the generator `auto_select`, which XLA on CPU turns into another and far slower one; and even
Philox' bits, which are the same, become other floats there. Inside `philox()` the algorithm is named and the floats
are made here from its bits: compiled and plain graphs draw the same numbers, but for the last bits of normal ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tapeworks_workers.engine.graph.replica_rows import cut


def derive_seed(seed: int, *names: object) -> int:
    """A seed in 0 … 2³¹-1 of its own for every sequence of names."""
    text = ":".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


@contextlib.contextmanager
def philox() -> Iterator[None]:
    """Have the stateless functions that Keras calls draw from Philox' bits, while the block runs (tracing)."""
    pinned = (
        (tf.random, "stateless_uniform", _stateless_uniform),
        (tf.random, "stateless_normal", _stateless_normal),
        (tf.random, "stateless_truncated_normal", _stateless_truncated_normal),
        (tf.nn.experimental, "stateless_dropout", _stateless_dropout),
    )
    with contextlib.ExitStack() as stack:
        for module, name, function in pinned:
            stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, function)
        yield


# ── TensorFlow's functions, from Philox' bits ────────────────────────────────────────────────────

Bits = Callable[[Any, tf.DType], tf.Tensor]
"""(shape, uint32 or uint64) → so many random bits each."""


def _bits_of(seed: Any) -> Bits:
    return lambda shape, dtype: _ORIGINAL(shape, seed, minval=None, maxval=None, dtype=dtype, alg="philox")


def _stateless_uniform(
    shape: Any, seed: Any, minval: Any = 0, maxval: Any = None, dtype: Any = tf.float32, name: str | None = None,
    alg: str = "auto_select",
) -> tf.Tensor:  # fmt: skip
    dtype = tf.as_dtype(dtype)
    if not dtype.is_floating:
        chosen = "philox" if alg == "auto_select" else alg
        return cut(lambda whole: _ORIGINAL(whole, seed, minval, maxval, dtype, name, chosen), shape)
    return cut(lambda whole: uniform(_bits_of(seed), whole, minval, maxval, dtype), shape)


def _stateless_normal(
    shape: Any, seed: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = tf.float32, name: str | None = None,
    alg: str = "auto_select",
) -> tf.Tensor:  # fmt: skip
    return cut(lambda whole: normal(_bits_of(seed), whole, mean, stddev, tf.as_dtype(dtype)), shape)


def _stateless_truncated_normal(
    shape: Any, seed: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = tf.float32, name: str | None = None,
    alg: str = "auto_select",
) -> tf.Tensor:  # fmt: skip
    dtype = tf.as_dtype(dtype)
    exact = tf.float64 if dtype == tf.float64 else tf.float32
    inside = math.erf(math.sqrt(2.0))  # of a normal number's weight, what lies within two deviations
    spread = cut(lambda whole: _between_minus_one_and_one(_bits_of(seed), whole, exact), shape)
    drawn = math.sqrt(2.0) * tf.math.erfinv(inside * spread)
    return tf.cast(drawn, dtype) * tf.cast(stddev, dtype) + tf.cast(mean, dtype)


def _stateless_dropout(
    x: Any, rate: Any, seed: Any, rng_alg: str = "auto_select", noise_shape: Any = None, name: str | None = None
) -> tf.Tensor:
    x = tf.convert_to_tensor(x)
    shape = tf.shape(x) if noise_shape is None else _filled(noise_shape, x)
    kept = cut(lambda whole: _at_least(rate, _bits_of(seed), whole, x.dtype), shape)
    scale = 1.0 / (1.0 - tf.cast(rate, tf.float64))
    dropped = tf.where(kept, x * tf.cast(scale, x.dtype), tf.zeros([], x.dtype))
    dropped.set_shape(x.shape)
    return dropped


def _at_least(bound: Any, bits: Bits, shape: Any, dtype: tf.DType) -> tf.Tensor:
    """Whether each of so many floats in [0, 1) is not below a bound. Where the bound is known, the bits are compared,
    which is the same and spares three passes over them."""
    if tf.is_tensor(bound) or dtype == tf.float64:
        return _unit(bits, shape, dtype) >= tf.cast(bound, dtype)
    kept = _fraction_bits(dtype)
    least = math.ceil(float(np.asarray(bound, dtype.as_numpy_dtype)) * 2**kept)
    return _lowest(bits, shape, kept) >= tf.constant(least, tf.uint32)


def _filled(noise_shape: Any, x: tf.Tensor) -> tf.Tensor:
    """A noise shape, its None as x has it."""
    given = noise_shape.as_list() if isinstance(noise_shape, tf.TensorShape) else noise_shape
    if tf.is_tensor(given):
        return given
    sizes = tf.shape(x)
    return tf.stack([sizes[axis] if size is None else size for axis, size in enumerate(given)])


def uniform(bits: Bits, shape: Any, minval: Any, maxval: Any, dtype: tf.DType) -> tf.Tensor:
    """Floats in [minval, maxval), 1 where maxval is None."""
    low = tf.cast(minval, dtype)
    high = tf.cast(1 if maxval is None else maxval, dtype)
    return _unit(bits, shape, dtype) * (high - low) + low


def normal(bits: Bits, shape: Any, mean: Any, stddev: Any, dtype: tf.DType) -> tf.Tensor:
    """Normal floats, two from two uniform ones, by Box and Muller (1958): TensorFlow's own, but for the last bits."""
    exact = tf.float64 if dtype == tf.float64 else tf.float32
    shape = tf.cast(shape, tf.int32)
    count = tf.reduce_prod(shape)
    radius, angle = tf.unstack(_unit(bits, tf.stack([(count + 1) // 2, 2]), exact), num=2, axis=1)
    length = tf.sqrt(-2.0 * tf.math.log(tf.maximum(radius, tf.constant(1e-7, exact))))
    angle = 2.0 * math.pi * angle
    pairs = tf.stack([length * tf.sin(angle), length * tf.cos(angle)], axis=1)
    drawn = tf.reshape(tf.reshape(pairs, [-1])[:count], shape)
    return tf.cast(drawn, dtype) * tf.cast(stddev, dtype) + tf.cast(mean, dtype)


def _between_minus_one_and_one(bits: Bits, shape: Any, dtype: tf.DType) -> tf.Tensor:
    """Symmetric, neither end: half a step inside."""
    return 2.0 * _unit(bits, shape, dtype) - (1.0 - (2.0**-52 if dtype == tf.float64 else 2.0**-23))


def _unit(bits: Bits, shape: Any, dtype: tf.DType) -> tf.Tensor:
    """Floats in [0, 1): of the lowest bits as many as the type's fraction has, as TensorFlow's CPU kernels do."""
    if dtype == tf.float64:
        return tf.cast(_lowest_of_double(bits(shape, tf.uint64)), dtype) * 2.0**-52
    kept = _fraction_bits(dtype)
    return tf.cast(tf.cast(_lowest(bits, shape, kept), tf.int32), dtype) * tf.cast(2.0**-kept, dtype)


def _lowest_of_double(bits: tf.Tensor) -> tf.Tensor:
    """The lowest 52 bits, the halves exchanged: TensorFlow takes the first 32 bits drawn for a double's lower ones."""
    half, fraction = tf.constant(32, tf.uint64), tf.constant((1 << 52) - 1, tf.uint64)
    exchanged = tf.bitwise.bitwise_or(tf.bitwise.right_shift(bits, half), tf.bitwise.left_shift(bits, half))
    return tf.bitwise.bitwise_and(exchanged, fraction)


def _fraction_bits(dtype: tf.DType) -> int:
    return {tf.float16: 10, tf.bfloat16: 7}.get(dtype, 23)


def _lowest(bits: Bits, shape: Any, kept: int) -> tf.Tensor:
    return tf.bitwise.bitwise_and(bits(shape, tf.uint32), tf.constant((1 << kept) - 1, tf.uint32))


_ORIGINAL: Any = tf.random.stateless_uniform


class Streams:
    """The random streams of a step: training and validation each draw from their own, both checkpointed."""

    def __init__(self, seed: int) -> None:
        self._generators = {
            name: tf.random.Generator.from_seed(derive_seed(seed, "run", name), alg="philox")
            for name in ("training", "validation")
        }
        self.active = "training"

    @property
    def current(self) -> tf.random.Generator:
        """The stream of what is being traced or run."""
        return self._generators[self.active]

    def variables(self) -> dict[str, tf.Variable]:
        """The states, by the stream's name."""
        return {name: generator.state for name, generator in self._generators.items()}

    def bits(self, shape: Any, dtype: tf.DType) -> tf.Tensor:
        """The next random bits of what is being traced or run."""
        return self.current.uniform_full_int(shape, dtype)

    @contextlib.contextmanager
    def using(self, name: str) -> Iterator[None]:
        """Draw from the named stream inside the block."""
        before, self.active = self.active, name
        try:
            yield
        finally:
            self.active = before
