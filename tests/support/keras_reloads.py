"""Classes of a test, registered with Keras, and models that are saved and loaded."""

from pathlib import Path

import keras

from tapeworks.components import serialization


def known(cls: type) -> type:
    return serialization.register(f"trial/{cls.__name__}", cls)


def reloaded(model: keras.Model, folder: Path) -> keras.Model:
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")
