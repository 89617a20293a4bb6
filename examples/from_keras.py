"""A model that `fit` could train, as a job: `python -m examples.from_keras > examples/standard/functional.json`.

`tapeworks.from_keras` reads the layers, the optimizer with its schedule, the loss and the metrics from what `compile`
was given. Keras is needed where this runs; a worker needs nothing but the spec.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import keras

import tapeworks
from tapeworks.spec.job_spec import JobSpec

DATA = {
    "source": {"component": "digits", "config": {"image": True}},
    "validation": 0.1,
    "test": 0.2,
    "pipeline": [{"op": "shuffle", "buffer_size": 2000}, {"op": "batch", "batch_size": 32}],
}


def compiled() -> keras.Model:
    """A small convolutional network with a way around its second convolution, compiled."""
    image = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Conv2D(16, 3, padding="same", activation="relu", name="first")(image)
    y = keras.layers.Conv2D(16, 3, padding="same", activation="relu", name="second")(x)
    x = keras.layers.MaxPooling2D(name="smaller")(keras.layers.Add(name="around")([x, y]))
    x = keras.layers.Dropout(0.2, name="dropout")(keras.layers.Flatten(name="flat")(x))
    model = keras.Model(image, keras.layers.Dense(10, "softmax", name="digit")(x), name="digits")
    schedule = keras.optimizers.schedules.CosineDecay(0.005, 400)
    model.compile(
        keras.optimizers.AdamW(schedule, clipnorm=1.0, name="adamw"),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def spec() -> JobSpec:
    """The job."""
    return tapeworks.from_keras(compiled(), data=DATA, epochs=8, name="a compiled Keras model")


def document() -> dict[str, Any]:
    """What of it is not a default, as JSON."""
    return spec().model_dump(mode="json", by_alias=True, exclude_unset=True)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(document(), indent=1) + "\n")
