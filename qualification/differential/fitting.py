"""The set-up trained by `keras.Model.fit`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from qualification.differential.setups import BATCH, Setup


@dataclass
class Training:
    """What a side trained, and saw meanwhile."""

    names: list[str]
    """Of the model's variables, seeds aside."""
    start: list[np.ndarray]
    """Their values before the first step."""
    end: list[np.ndarray]
    losses: list[float]
    """The running mean of the loss after each batch."""
    history: dict[str, list[float]]
    """Name → value of each epoch."""


class _Curve(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.losses.append(float(logs["loss"]))


def compiled_model(setup: Setup) -> keras.Model:
    """The model as a user has it before `fit`."""
    model = setup.model.made()
    model.compile(**setup.compile_arguments(), jit_compile=False)
    return model


def fitted(setup: Setup, model: keras.Model) -> Training:
    """Train it."""
    batch = keras.tree.map_structure(lambda array: array[:2], elements(setup.training))
    if not model.built:
        model(keras.tree.map_structure(tf.convert_to_tensor, batch[0]))
    # Built inside the traced step, as `fit` does it, what ScheduleFreeAdamW does in `build` happens at every step.
    model.optimizer.build(model.trainable_variables)
    names, start = values(model)
    curve = _Curve()
    callbacks = [curve]
    if setup.optimizer.config.get("use_ema"):
        # The engine validates the averages, and says so: this is how `fit` does.
        callbacks.append(keras.callbacks.SwapEMAWeights(swap_on_epoch=False))
    options: dict[str, Any] = {"epochs": setup.epochs, "shuffle": False, "verbose": 0, "callbacks": callbacks}
    options["class_weight"] = setup.class_weight
    if setup.from_arrays:
        x, y, weight = (*_flat_weights(setup.training), None)[:3]
        validated = None if setup.validation is None else _flat_weights(setup.validation)
        history = model.fit(x, y, sample_weight=weight, batch_size=BATCH, validation_batch_size=BATCH,
                            validation_data=validated, **options)  # fmt: skip
    else:
        validation = None if setup.validation is None else dataset(setup.validation)
        training = dataset(setup.training)
        if setup.steps_per_epoch is not None:
            training = training.repeat()
        history = model.fit(training, validation_data=validation, steps_per_epoch=setup.steps_per_epoch, **options)
    named = {name: [one for value in several for one in np.ravel(value)] for name, several in _flat(history.history)}
    return Training(names, start, values(model)[1], curve.losses, named)


def _flat_weights(split: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arrays of a split, weights of shape (n, 1) as (n,).

    Of arrays, and only of them, Keras averages such weights apart from the losses where y is in a structure.
    """
    if len(split) == 3 and isinstance(split[1], list | dict) and np.shape(split[2])[1:] == (1,):
        return (*split[:2], split[2][:, 0])
    return split


def _flat(history: dict[str, list[Any]]) -> list[tuple[str, list[Any]]]:
    """A metric of several values is several, as the engine names them."""
    found: list[tuple[str, list[Any]]] = []
    for name, several in history.items():
        size = np.size(several[0])
        if size == 1:
            found.append((name, several))
        else:
            found += [(f"{name}_{index}", [np.ravel(value)[index] for value in several]) for index in range(size)]
    return found


def values(model: keras.Model) -> tuple[list[str], list[np.ndarray]]:
    """Names and values of a model's variables; those of metrics and seeds aside."""
    kept = [variable for variable in model.variables if "seed_generator" not in variable.path]
    return [variable.path for variable in kept], [np.array(variable.numpy()) for variable in kept]


def elements(split: tuple[Any, ...]) -> Any:
    """The split as `from_tensor_slices` takes it: floats as the backend has them, tuples for lists."""
    floats = keras.config.floatx()

    def cast(array: np.ndarray) -> np.ndarray:
        return array.astype(floats) if array.dtype == np.float64 else array

    return keras.tree.lists_to_tuples(keras.tree.map_structure(cast, split))


def dataset(split: tuple[Any, ...]) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(elements(split)).batch(BATCH)
