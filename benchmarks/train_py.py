"""What one writes without Tapeworks: fit on the digits, save, export; and a reload in a fresh process.

`train_py.py train FOLDER` and `train_py.py reload FOLDER` each print one JSON line: when what happened, since 1970.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

EPOCHS, BATCH, VALIDATION, UNITS = 5, 32, 0.2, 64


def train(folder: Path) -> dict[str, float]:
    """Train, save and export."""
    stamps: dict[str, float] = {}
    x, y = load_digits(return_X_y=True)
    x, y = (x / 16.0).astype(np.float32), y.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(x))
    held = int(VALIDATION * len(x))
    validation, training = order[:held], order[held:]
    rows = tf.data.Dataset.from_tensor_slices((x[training], y[training]))
    batches = rows.shuffle(len(training)).batch(BATCH).prefetch(tf.data.AUTOTUNE)
    held_out = tf.data.Dataset.from_tensor_slices((x[validation], y[validation])).batch(BATCH)
    model = keras.Sequential([keras.layers.Dense(UNITS, activation="relu"), keras.layers.Dense(10)])
    model.compile(
        keras.optimizers.Adam(),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy()],
    )

    def stepped(batch: int, logs: object) -> None:
        stamps.setdefault("first_step", time.time())

    first = keras.callbacks.LambdaCallback(on_train_batch_end=stepped)
    model.fit(batches, epochs=EPOCHS, validation_data=held_out, verbose=0, callbacks=[first])
    stamps["trained"] = time.time()
    model.save(folder / "model.keras")
    model.export(folder / "saved_model", verbose=False)
    np.savez(folder / "probe.npz", x=x[:32], y=model(x[:32], training=False))
    return stamps | {"exported": time.time()}


def reload(folder: Path) -> dict[str, float]:
    """Load both formats and compare what they give."""
    probe = np.load(folder / "probe.npz")
    model = keras.models.load_model(folder / "model.keras")
    served = tf.saved_model.load(folder / "saved_model")
    np.testing.assert_allclose(model(probe["x"], training=False), probe["y"], atol=1e-5)
    np.testing.assert_allclose(served.serve(probe["x"]), probe["y"], atol=1e-5)
    return {"reloaded": time.time()}


if __name__ == "__main__":
    print(json.dumps({"train": train, "reload": reload}[sys.argv[1]](Path(sys.argv[2]))))
