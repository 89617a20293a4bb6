"""Losses and metrics that combine examples by accident, or meet labels without an output: certain, or a warning."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tapeworks.components.loading import load_components
from tapeworks.errors import JobFailure
from tests.support.paths import LAB
from tests.support.trainings import CROSS_ENTROPY, attempt, job, mlp, prepared, trained

PARTS = LAB / "output_parts.py"
load_components([PARTS])

RESHAPE = {"component": "keras/Reshape", "config": {"target_shape": []}}
DENSE = {"component": "keras/Dense", "config": {"units": 1}}
FLAT = {"component": "sequential", "config": {"layers": [DENSE, RESHAPE]}}
COLUMN = {"component": "sequential", "config": {"layers": [DENSE]}}


def labels(other: int = 255, shape: list[int] | None = None) -> dict[str, Any]:
    return {"source": {"component": "outs/Labels", "config": {"other": other, "shape": shape}}}


def failure(**changes: Any) -> JobFailure:
    with pytest.raises(JobFailure) as caught:
        prepared(job(training={"epochs": 1}, **changes), Path("/nonexistent"))
    return caught.value


@pytest.mark.parametrize(
    ("shape", "model", "loss", "says"),
    [
        ([1], FLAT, "outs/Squared", "y of shape (n, 1) against outputs of shape (n,)"),
        ([], COLUMN, "outs/Squared", "y of shape (n,) against outputs of shape (n, 1)"),
        ([1, 1], FLAT, "outs/squared_function", "y of shape (n, 1, 1) against outputs of shape (n,)"),
        ([1, 1], FLAT, "keras/MeanSquaredError", "y of shape (n, 1, 1) against outputs of shape (n,)"),
        ([], mlp(5), "outs/Squared", "y of shape (n,) against outputs of shape (n, 5)"),
    ],
)
def test_a_loss_of_n_by_n_pairs_is_refused(shape: list[int], model: Any, loss: str, says: str) -> None:
    found = failure(data=labels(shape=shape), model=model, loss=loss)
    assert found.code == "broadcast_loss"
    assert f"loss {loss!r} broadcasts {says}" in found.message


def test_a_squeeze_makes_it_a_warning(tmp_path: Path) -> None:
    """The author touched the shape: pairs may be meant, and it trains as in `fit`."""
    result = trained(job(data=labels(shape=[1]), model=COLUMN, loss="outs/Squeezed"), tmp_path)
    (told,) = result.events("diagnostic")
    assert told["code"] == "broadcast_loss"
    assert "y of shape (n, 1) against outputs of shape (n,)" in told["message"]
    assert failure(data=labels(shape=[1]), model=COLUMN, loss="outs/SqueezedTwice").code == "broadcast_loss"


def test_outputs_of_a_batch_that_lost_its_examples_are_a_warning(tmp_path: Path) -> None:
    data = {**labels(shape=[1]), "validation": None}
    spec = job(data=data, model={"component": "outs/Reduced", "config": {"units": 1}}, loss="keras/MeanSquaredError")
    (told,) = prepared(spec, tmp_path).events("diagnostic")
    assert told["code"] == "broadcast_loss"
    assert "outputs of shape (1,) have no example axis, y of shape (n, 1) has" in told["message"]


def test_its_line_is_the_users_own(tmp_path: Path) -> None:
    told = attempt(job(data=labels(shape=[1]), model=FLAT, loss="outs/Squared"), tmp_path, kind="validate")[-1][
        "failure"
    ]
    assert "tf.square(y_true - y_pred)" in PARTS.read_text().splitlines()[told["location"]["line"] - 1]


def test_so_is_a_loss_of_one_output() -> None:
    data = {"source": {"component": "outs/Targets", "config": {"form": "p flat"}}}
    heads = {"component": "outs/Heads", "config": {"form": "dict"}}
    loss = {"outputs": {"q": "keras/MeanSquaredError", "p": "outs/Squared"}}
    found = failure(data=data, model=heads, loss=loss)
    assert found.code == "broadcast_loss"
    assert "loss 'outs/Squared' broadcasts y of shape (n,) against outputs of shape (n, 1)" in found.message


def test_so_is_a_metric() -> None:
    found = failure(data=labels(shape=[1]), model=FLAT, loss="keras/MeanSquaredError", metrics=["outs/Distance"])
    assert found.code == "broadcast_loss"
    assert "metric 'distance' broadcasts y of shape (n, 1) against outputs of shape (n,)" in found.message


@pytest.mark.parametrize("loss", ["outs/squared_function", "keras/MeanSquaredError"])
def test_functions_are_squeezed_as_in_fit(tmp_path: Path, loss: str) -> None:
    flat = trained(job(data=labels(shape=[1]), model=FLAT, loss=loss), tmp_path)
    column = trained(job(data=labels(shape=[1]), model=COLUMN, loss="keras/MeanSquaredError"), tmp_path)
    np.testing.assert_allclose(flat.history("loss"), column.history("loss"), rtol=1e-6)


def test_pairs_that_are_meant_train(tmp_path: Path) -> None:
    """Squeezed scores, and an attribute that says so."""
    result = trained(job(data=labels(shape=[]), model=COLUMN, loss="outs/Ranked"), tmp_path)
    assert result.history("loss")[-1] < result.history("loss")[0]
    assert not result.events("diagnostic")
    result = trained(job(data=labels(shape=[1]), model=FLAT, loss="outs/PairsMeant"), tmp_path)
    assert not result.events("diagnostic")
    model = result.assembly.models["model"]
    x, y = next(iter(result.data.training.dataset(0).unbatch().batch(40)))
    assert np.isfinite(np.square(y.numpy() - model(x).numpy()).mean())


@pytest.mark.parametrize("loss", ["triplet", "nt_xent"])
def test_embeddings_of_one_dimension_train(tmp_path: Path, loss: str) -> None:
    trained(job(model=mlp(outputs=1), loss=loss, training={"epochs": 1}), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["where", "gather", "boolean_mask"])
def test_labels_that_the_loss_leaves_out_train_as_in_fit(tmp_path: Path, way: str) -> None:
    for void in (255, -1):
        loss = {"component": "outs/Void", "config": {"void": void, "way": way}}
        sgd = {"component": "keras/SGD", "config": {"learning_rate": 0.1}}
        ours = prepared(job(data=labels(void), model=mlp(3), loss=loss, optimizer=sgd), tmp_path)
        model = keras.models.clone_model(ours.assembly.models["model"])
        for mine, theirs in zip(ours.assembly.models["model"].variables, model.variables, strict=True):
            theirs.assign(mine.numpy())
        ours.training.train()
        model.compile(keras.optimizers.SGD(0.1), ours.assembly.losses["model"].parts[0][1].loss)
        history = model.fit(ours.data.training.dataset(0), epochs=2, shuffle=False, verbose=0).history["loss"]
        np.testing.assert_allclose(ours.history("loss"), history, rtol=1e-5)
        assert not ours.events("diagnostic")


def test_a_one_hot_of_zeros_is_a_warning_unless_it_is_declared(tmp_path: Path) -> None:
    config = {"void": 255, "way": "one-hot"}
    result = trained(job(data=labels(), model=mlp(3), loss={"component": "outs/Void", "config": config}), tmp_path)
    (told,) = result.events("diagnostic")
    assert told["code"] == "invalid_data"
    assert told["message"] == "loss 'outs/Void' makes a one-hot of the label 255 with 3 classes: it is all zeros"
    assert "ignore_class = 255" in told["hint"]
    declared = {"component": "outs/Declared", "config": config}
    assert not trained(job(data=labels(), model=mlp(3), loss=declared), tmp_path).events("diagnostic")


@pytest.mark.parametrize("loss", [CROSS_ENTROPY, "outs/Careless", {"component": "outs/Void", "config": {"void": 7}}])
def test_labels_that_reach_the_operation_are_refused(tmp_path: Path, loss: Any) -> None:
    frames = attempt(job(data=labels(255), model=mlp(3), loss=loss, training={"epochs": 1}), tmp_path)
    told = frames[-1]["failure"]
    assert told["code"] == "invalid_data", told
    assert "255" in told["message"]


def test_a_loss_that_takes_all_outputs_at_once(tmp_path: Path) -> None:
    data = {"source": {"component": "outs/Targets", "config": {"form": "single"}}}
    heads = {"component": "outs/Heads", "config": {"form": "tuple"}}
    trained(job(data=data, model=heads, loss="outs/Whole"), tmp_path)
    found = failure(data=data, model=heads, loss="outs/Squared")
    assert found.code == "invalid_spec"
    assert "y and the model's outputs have different structures: y is *, the outputs are (*, *)" in found.message
    assert "takes_all_outputs" in str(found.hint)
