"""The way over from `fit`: a compiled model becomes a job, and comes back compiled alike."""

from pathlib import Path

import keras
import pytest

import tapeworks
from tapeworks.schemas.jobs import State
from tests.support.serving import Served

DATA = {"source": "diabetes", "validation": 0.2, "pipeline": [{"op": "batch", "batch_size": 32}]}


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_compiled_model_is_trained_and_comes_back_compiled(served: Served, tmp_path: Path, policy: str) -> None:
    keras.config.set_dtype_policy(policy)
    layers = [
        keras.Input((10,)),
        keras.layers.Dense(16, "relu", kernel_regularizer="l2"),
        keras.layers.Dropout(0.1),
        keras.layers.Dense(1),
    ]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.Adam(0.01), keras.losses.Huber(delta=0.5), metrics=["mae"])
    job = served.client.wait(served.client.submit(tapeworks.from_keras(model, data=DATA, epochs=2)).id, 240)
    assert job.state is State.SUCCEEDED, job.failure
    assert {"loss", "mae", "val_mae"} <= set(job.metrics)
    again = tapeworks.load(served.client.download(job.id, tmp_path))["model"]
    assert [type(layer) for layer in again.layers] == [type(layer) for layer in model.layers]
    assert again.loss._fn_kwargs == {"delta": 0.5}  # Keras itself leaves it out of its config
    assert again.optimizer.iterations == job.progress.step
