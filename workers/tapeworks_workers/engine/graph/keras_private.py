"""What the engine uses of Keras' private modules: names that Keras invents, its global seed, wrapped loss functions."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
from keras.src.backend.common.global_state import GLOBAL_STATE_TRACKER, get_global_attribute
from keras.src.losses import loss as loss_module
from keras.src.losses.losses import LossFunctionWrapper
from keras.src.random.seed_generator import global_seed_generator
from keras.src.utils.naming import to_snake_case


def loss_of_function(function: Callable[..., Any], /, **arguments: Any) -> keras.losses.Loss:
    """A loss that calls a function of `y_true` and `y_pred`, named as the function, as Keras wraps its own."""
    loss: keras.losses.Loss = LossFunctionWrapper(function, **{"name": function.__name__, **arguments})
    return loss


def automatic_name(cls: Any) -> str:
    """What the names begin with that Keras invents for the objects of a class: it in snake case."""
    return str(to_snake_case(cls.__name__))


def automatic_names() -> dict[str, int]:
    """Beginning of a name → how many names of it Keras invented in this process."""
    return dict(get_global_attribute("object_name_uids") or {})


def global_seed() -> keras.random.SeedGenerator:
    """The seed generator of layers that were given none; made where it is not there."""
    generator: keras.random.SeedGenerator = global_seed_generator()
    return generator


def thread_state() -> dict[str, Any]:
    """What Keras keeps for each thread: the dtype policy, the global seed generator."""
    state = vars(GLOBAL_STATE_TRACKER)
    return {name: list(value) if isinstance(value, list) else value for name, value in state.items()}


def adopt_thread_state(state: dict[str, Any]) -> None:
    """Have this thread's Keras go by another thread's state."""
    vars(GLOBAL_STATE_TRACKER).update(state)


@contextlib.contextmanager
def losses_of_replicas_unscaled() -> Iterator[None]:
    """Inside the block a loss is the mean of a replica's rows: Keras divides it by the number of replicas, which holds
    for parts of one size only."""
    names = ("scale_loss_for_distribution", "unscale_loss_for_distribution")
    before = {name: getattr(loss_module, name) for name in names}
    for name in names:
        setattr(loss_module, name, lambda value: value)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(loss_module, name, function)


class _IdsOfThread(threading.local):
    """A set for each thread, as far as layers use one."""

    def __init__(self) -> None:
        self._ids: set[int] = set()

    def add(self, one: int) -> None:
        self._ids.add(one)

    def clear(self) -> None:
        self._ids.clear()

    def __contains__(self, one: int) -> bool:
        return one in self._ids


@contextlib.contextmanager
def losses_by_thread(layers: Iterable[Any]) -> Iterator[None]:
    """Inside the block each thread that calls these layers has the losses that they add for itself: where replicas
    meet inside a model, the call of one would clear those of another."""
    before = [(layer, layer._loss_ids) for layer in layers]
    for layer, _ in before:
        vars(layer)["_loss_ids"] = _IdsOfThread()  # past Keras' tracking
    try:
        yield
    finally:
        for layer, ids in before:
            vars(layer)["_loss_ids"] = ids
