"""Stateful RNNs train as `fit` trains them, states included, and reload with a certificate, or are refused."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tapeworks
from tapeworks.components.loading import load_components
from tapeworks.components.registry import registry
from tapeworks.errors import FailureCode, JobFailure
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.admission.admission import admit
from tapeworks_workers.engine.comparison import recurrent_states
from tapeworks_workers.engine.export.export import export_bundle
from tapeworks_workers.engine.step.compiled_step import compile_train_step
from tapeworks_workers.engine.step.state import restore, snapshot
from tests.support.paths import LAB
from tests.support.trainings import Trained, job, trained

load_components([LAB / "reload_parts.py"])
from reload_parts import Stateful, series, stateful  # noqa: E402  # registered by their file's own name

BATCH = {"op": "batch", "batch_size": 8, "drop_remainder": True}
ONES = {"units": 3, "stateful": True, "kernel_initializer": "ones", "recurrent_initializer": "ones"}
BY_SPEC = {
    "component": "sequential",
    "config": {
        "layers": [
            {"component": "keras/LSTM", "config": ONES},
            {"component": "keras/Dense", "config": {"units": 1, "kernel_initializer": "ones"}},
        ]
    },
}


def compiled(model: keras.Model) -> keras.Model:
    model.compile(keras.optimizers.SGD(0.01), "mse")
    return model


def the_job(model: Any, *, batch: dict[str, Any] = BATCH, validation: bool = True, epochs: int = 3) -> Any:
    data: dict[str, Any] = {"source": "parts/Series", "pipeline": [batch]}
    if validation:
        data["validation"] = {"fraction": 0.4, "split": "tail"}
    optimizer = {"component": "keras/SGD", "config": {"learning_rate": 0.01}}
    return job(data=data, model=model, optimizer=optimizer, loss="keras/MeanSquaredError", training={"epochs": epochs})


def by(how: str) -> Any:
    if how == "from_keras":
        data = {"source": "parts/Series", "pipeline": [BATCH]}
        return tapeworks.from_keras(compiled(stateful()), data=data).document()["models"]["model"]
    return {"spec": BY_SPEC, "function": "parts/stateful", "class": "parts/Stateful"}[how]


def fitted(how: str, epochs: int = 3) -> dict[str, list[float]]:
    keras.utils.clear_session()
    model = compiled(Stateful() if how == "class" else stateful())
    x, y = series(44)
    training, validation = (
        tf.data.Dataset.from_tensor_slices((x[part], y[part])).batch(8, drop_remainder=True)
        for part in (slice(26), slice(26, None))
    )
    if how == "class":  # `fit` cannot build it: its states need values
        model(np.zeros((8, 5, 2), np.float32))
        for layer in (model.rnn.forward_layer, model.rnn.backward_layer):
            layer.reset_state()
    return model.fit(training, validation_data=validation, epochs=epochs, verbose=0, shuffle=False).history


@pytest.mark.slow
@pytest.mark.parametrize("how", ["spec", "function", "from_keras", "class"])
def test_a_stateful_rnn_trains_as_fit_trains_it(tmp_path: Path, how: str) -> None:
    found, expected = trained(the_job(by(how)), tmp_path), fitted(how)
    np.testing.assert_allclose(found.history("loss"), expected["loss"], rtol=1e-5)
    np.testing.assert_allclose(found.history("val_loss"), expected["val_loss"], rtol=1e-5)


def certified(found: Trained, folder: Path, verify: Any) -> None:
    draft = export_bundle(
        found.assembly,
        compile_train_step(found.assembly),
        counters={"step": 1},
        batches=found.data.training.first(2),
        folder=folder,
        metrics={},
        lineage={},
    )
    answer = verify("reload", draft.folder)
    assert answer["ok"], answer
    report = answer["report"]["models"]["model"]
    assert all(report[way]["outputs"]["max_abs_difference"] <= 1e-6 for way in ("keras", "load_model", "saved_model"))
    answer = verify("certify", draft.folder)
    assert answer["ok"], answer
    assert answer["report"]["step"]["bit_equal"] is True


@pytest.mark.slow
@pytest.mark.parametrize("how", ["spec", pytest.param("from_keras", marks=pytest.mark.thorough), "class"])
def test_a_stateful_rnn_comes_back(tmp_path: Path, verify: Any, how: str) -> None:
    found = trained(the_job(by(how), validation=False, epochs=1), tmp_path / "job")
    before = [state.numpy() for state in recurrent_states(found.assembly.models["model"])]
    assert all(state.any() for state in before), "training left its states"
    certified(found, tmp_path / "bundle", verify)
    for state, value in zip(recurrent_states(found.assembly.models["model"]), before, strict=True):
        np.testing.assert_array_equal(state.numpy(), value, "export leaves the job as it was")


def test_a_checkpoint_holds_the_states(tmp_path: Path) -> None:
    found = trained(the_job(BY_SPEC, epochs=1), tmp_path)
    model, state = found.assembly.models["model"], snapshot(found.assembly, {})
    x = series(8)[0]
    after = model(x).numpy()
    assert not np.array_equal(model(x).numpy(), after)
    restore(found.assembly, state)
    np.testing.assert_array_equal(model(x).numpy(), after)


def refused(spec: Any, folder: Path) -> JobFailure:
    with pytest.raises(JobFailure) as raised:
        trained(spec, folder)
    assert raised.value.code is FailureCode.INVALID_SPEC
    assert "stateful" in raised.value.message
    return raised.value


@pytest.mark.slow
@pytest.mark.parametrize("how", ["spec", "function", "class"])
def test_a_short_batch_is_refused_with_a_remedy_that_works(tmp_path: Path, how: str) -> None:
    failure = refused(the_job(by(how), batch={"op": "batch", "batch_size": 8}), tmp_path / "a")
    assert "the last training batch may be short" in failure.message
    assert '"drop_remainder": true' in str(failure.hint)
    trained(the_job(by(how), epochs=1), tmp_path / "b")  # the same with drop_remainder


def test_another_batch_size_than_the_model_was_made_for_is_refused(tmp_path: Path) -> None:
    of_four = {"component": "parts/stateful", "config": {"batch": 4}}
    failure = refused(the_job(of_four), tmp_path)
    assert "made for batches of 4; a training batch holds 8" in failure.message


def test_stateful_models_are_admitted() -> None:
    components = [one for one in registry if one.name in ("parts/stateful", "parts/Stateful")]
    assert [one.kind for one in components] == [Kind.MODEL, Kind.MODEL]
    assert [getattr(admit(one), "reason", None) for one in components] == [None, None]
