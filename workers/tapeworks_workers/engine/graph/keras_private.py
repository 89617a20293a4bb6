"""What the engine uses of Keras' private modules: names that Keras invents, its global seed, wrapped loss functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras.src.backend.common.global_state import get_global_attribute
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
