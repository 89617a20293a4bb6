"""Where random numbers come from: derived seeds, the Philox pin, and the streams of `run.random_*`.

Every seed is derived from `training.seed` and a name, so that adding a consumer changes no other's
numbers. Keras asks for the generator `auto_select`, which XLA on CPU turns into another and far
slower one: inside `philox()` the algorithm is named, and compiled and plain graphs draw the same
numbers.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

_PINNED = (
    (tf.random, "stateless_uniform", "alg"),
    (tf.random, "stateless_normal", "alg"),
    (tf.random, "stateless_truncated_normal", "alg"),
    (tf.nn.experimental, "stateless_dropout", "rng_alg"),
)


def derive_seed(seed: int, *names: object) -> int:
    """A seed in 0 … 2³¹-1 of its own for every sequence of names."""
    text = ":".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


@contextlib.contextmanager
def philox() -> Iterator[None]:
    """Name the Philox algorithm in the stateless functions that Keras calls, while the block runs (tracing)."""
    with contextlib.ExitStack() as stack:
        for module, name, argument in _PINNED:
            original = getattr(module, name)
            stack.callback(setattr, module, name, original)
            setattr(module, name, _named(original, argument))
        yield


def _named(function: Any, argument: str) -> Any:
    @functools.wraps(function)
    def pinned(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get(argument) in (None, "auto_select"):
            kwargs[argument] = "philox"
        return function(*args, **kwargs)

    return pinned


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

    @contextlib.contextmanager
    def using(self, name: str) -> Iterator[None]:
        """Draw from the named stream inside the block."""
        before, self.active = self.active, name
        try:
            yield
        finally:
            self.active = before
