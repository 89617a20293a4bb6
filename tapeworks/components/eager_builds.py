"""Constants that layers compute in `build` stay usable when a component is called for the first time.

Keras traces `call` in a scratch graph to build a layer that has no `build` of its own. The tensors that the `build` of
an inner layer computes there (`Normalization`, constants and tables of a user's layer) are lost with that graph.

Like `serialization.py`, this file goes into every bundle as it is: it uses the standard library, Keras and TensorFlow.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def keep(cls: type) -> None:
    """Wrap `__call__` so that inner layers which the first call builds keep the constants of their `build`.

    Keras traces `call` in a scratch graph to build a layer. What an inner `build` computes there is lost with it.
    """
    original: Callable[..., Any] = cls.__call__
    if getattr(original, "_builds_eagerly", False):
        return

    @functools.wraps(original)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.built:
            return original(self, *args, **kwargs)
        with _eager_builds():
            return original(self, *args, **kwargs)

    __call__._builds_eagerly = True  # type: ignore[attr-defined]
    cls.__call__ = __call__  # type: ignore[method-assign]


@contextmanager
def _eager_builds() -> Iterator[None]:
    """Inside the block every `build` runs outside of the graph that is being traced."""
    keras: Any = importlib.import_module("keras")
    base: Any = keras.layers.Layer
    before = vars(base)["_maybe_build"]
    if keras.config.backend() != "tensorflow" or hasattr(before, "_lifts"):
        yield
        return
    tensorflow = importlib.import_module("tensorflow")

    @functools.wraps(before)
    def _maybe_build(self: Any, *args: Any, **kwargs: Any) -> None:
        if self.built or getattr(self.build, "_is_default", False):
            before(self, *args, **kwargs)
            return
        with tensorflow.init_scope():
            before(self, *args, **kwargs)

    _maybe_build._lifts = True  # type: ignore[attr-defined]
    base._maybe_build = _maybe_build
    try:
        yield
    finally:
        base._maybe_build = before
