"""What a model or an optimizer overrides of `fit` trains and reports as `fit` does; what no job calls is refused."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks import Callback, TrainingStep, component
from tapeworks.components.loading import load_components
from tapeworks.components.registry import registry
from tapeworks.components.uncalled_methods import check_uncalled, uncalled_of_libraries
from tapeworks.errors import ComponentError, JobFailure
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.factory.factory import build
from tests.support.paths import LAB
from tests.support.trainings import Trained, job, numbers, prepared, trained

load_components([LAB / "hook_parts.py"])
ACCURACY = "keras/SparseCategoricalAccuracy"
SGD = {"component": "keras/SGD", "config": {"learning_rate": 0.001}}


def hooked(model: Any = "hooks/MoreLoss", optimizer: Any = SGD, plan: str = "auto", **changes: Any) -> Any:
    """Three epochs with validation, sample weights and a short last batch."""
    return job(
        data={"source": numbers(95, "weighted"), "validation": 0.2},
        model=model,
        optimizer=optimizer,
        metrics=[ACCURACY],
        training={"epochs": 3, "execution": {"plan": plan}},
        **changes,
    )


def fitted(ours: Trained, optimizer: Any) -> tuple[keras.Model, dict[str, list[float]]]:
    """A model of the same class and start, trained by `fit` on the same batches."""
    reference = ours.assembly.spec.models["model"]
    model = build(reference, Kind.MODEL)
    model(np.zeros((1, 4), "float32"))
    for mine, theirs in zip(ours.assembly.models["model"].variables, model.variables, strict=True):
        theirs.assign(mine.numpy())
    model.compile(
        optimizer=build(optimizer, Kind.OPTIMIZER),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy()],
    )
    validation = ours.data.validation
    assert validation is not None
    batches = ours.data.training.dataset(0)
    run = model.fit(batches, validation_data=validation.dataset(0), epochs=3, shuffle=False, verbose=0)
    return model, run.history


def check(ours: Trained, optimizer: Any = SGD) -> set[str]:
    """The curves and the weights of `fit`; the names that it reports."""
    model, history = fitted(ours, optimizer)
    ours.training.train()
    for name, values in history.items():
        np.testing.assert_allclose(ours.history(name), values, rtol=1e-5, atol=1e-6, err_msg=name)
    of_spec = {"loss", "sparse_categorical_accuracy"}  # reported although a model hides them from fit
    assert set(ours.training.counters.logs) <= {*history, *of_spec, *(f"val_{name}" for name in of_spec)}
    for mine, theirs in zip(ours.assembly.models["model"].weights, model.weights, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-6, err_msg=mine.path)
    return set(history)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reported"),
    [
        ("OwnLoss", set()),
        ("MoreLoss", {"term", "val_term"}),
        ("OwnMetrics", {"largest", "val_largest"}),
        ("Compiled", {"largest", "val_largest"}),
        ("LastBatch", {"last", "val_last"}),
        ("OnlyTracker", {"loss", "val_loss"}),
        ("NamedResults", {"f1", "val_f1", "seen", "val_seen", "doubled", "val_doubled"}),
        ("Watched", {"seen", "val_seen"}),
        ("patched", set()),
    ],
)
def test_a_model_trains_as_its_hooks_say(tmp_path: Path, name: str, reported: set[str]) -> None:
    assert reported <= check(prepared(hooked(f"hooks/{name}"), tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["steps", "loop", "fused", "eager"])
def test_hooks_hold_under_every_plan(tmp_path: Path, plan: str) -> None:
    check(prepared(hooked(plan=plan), tmp_path))


def test_a_model_that_never_resets_its_metrics_keeps_counting(tmp_path: Path) -> None:
    """As in fit, training and validation are one count then."""
    check(prepared(hooked("hooks/NeverReset"), tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["UnitNorm", "Scaled", "Halved"])
def test_an_optimizer_updates_as_its_hooks_say(tmp_path: Path, name: str) -> None:
    optimizer = {"component": f"hooks/{name}", "config": {"learning_rate": 0.001}}
    net = {"component": "sequential", "config": {"layers": [{"component": "keras/Dense", "config": {"units": 3}}]}}
    check(prepared(hooked(net, optimizer), tmp_path), optimizer)


def test_an_optimizer_with_a_loss_scale_of_its_own_cannot_share_a_loss(tmp_path: Path) -> None:
    dense = {"component": "keras/Dense", "config": {"units": 3}}
    layers = [{**dense, "config": {"units": 3, "name": name}} for name in ("a", "b")]
    net = {"component": "sequential", "config": {"layers": layers}}
    owned = {
        name: {**reference, "variables": [{"model": "model", "layers": [name]}]}
        for name, reference in {"a": {"component": "hooks/Scaled"}, "b": SGD}.items()
    }
    with pytest.raises(JobFailure, match=r"Scaled overrides scale_loss"):
        prepared(hooked(net, None, optimizers=owned), tmp_path)


@pytest.mark.parametrize("plan", ["auto", "eager"])
def test_metrics_that_a_step_holds_begin_anew_and_are_not_averaged_again(tmp_path: Path, plan: str) -> None:
    """`loss` is the result of a Mean, `mean` is averaged by the engine; both leave validation out of training."""
    spec = job(
        data={"source": numbers(80), "validation": {"fraction": 0.25, "split": "tail"}},
        step="hooks/Tracked",
        optimizer=SGD,
        training={"epochs": 3, "execution": {"plan": plan}},
    )
    ours = trained(spec, tmp_path)
    for prefix in ("", "val_"):
        mean = np.array(ours.history(f"{prefix}mean"))
        assert (np.diff(mean) < 0).all()
        np.testing.assert_allclose(ours.history(f"{prefix}passed"), mean, rtol=1e-6)
        np.testing.assert_allclose(ours.history(f"{prefix}loss"), mean, rtol=1e-5)  # all batches are of one size
        np.testing.assert_allclose(np.square(ours.history(f"{prefix}root")), mean, rtol=1e-5)


def test_a_metric_that_a_model_holds_says_its_direction(tmp_path: Path) -> None:
    def stopping(monitor: str) -> Any:
        return {"epochs": 2, "early_stopping": {"monitor": monitor}}

    ours = prepared(job(model="hooks/NamedResults", data={"validation": 0.2}, training=stopping("val_f1")), tmp_path)
    (monitors,) = [r["diagnostics"]["monitors"] for r in ours.records("facts") if "monitors" in r["diagnostics"]]
    assert [one["mode"] for one in monitors.values()] == ["max"]
    with pytest.raises(JobFailure, match=r"'val_doubled' with mode \"auto\""):
        prepared(job(model="hooks/NamedResults", data={"validation": 0.2}, training=stopping("val_doubled")), tmp_path)


def test_two_metrics_of_one_name_are_refused_with_a_name_that_works(tmp_path: Path) -> None:
    taken = {"component": ACCURACY, "config": {"name": "seen"}}
    with pytest.raises(JobFailure, match=r"Watched holds a metric 'seen'") as caught:
        prepared(job(model="hooks/Watched", metrics=[taken]), tmp_path)
    assert '{"name": "spec_seen"}' in str(caught.value.hint)
    prepared(job(model="hooks/Watched", metrics=[{**taken, "config": {"name": "spec_seen"}}]), tmp_path)


def test_a_hook_that_a_built_in_step_has_no_place_for_is_a_diagnostic(tmp_path: Path) -> None:
    models = {"student": "hooks/MoreLoss", "teacher": "hooks/Watched"}
    spec = job(step="distillation", model=None, models=models, loss=None, optimizer=None, optimizers={"student": SGD})
    found = [event for event in prepared(spec, tmp_path).events("diagnostic") if event["code"] == "hook_not_called"]
    assert [event["message"] for event in found] == [
        "model 'student' (MoreLoss) overrides compute_loss, which Distillation does not call"
    ]
    assert "run.compute_loss('student', …)" in found[0]["hint"]


def test_a_loss_that_is_no_number_is_refused_by_name(tmp_path: Path) -> None:
    class Vector(registry.get(Kind.MODEL, "hooks/OwnLoss").target):  # type: ignore[misc]
        def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None) -> Any:
            return tf.reduce_mean(y_pred**2, -1)

    component("hooks/Vector")(Vector)
    with pytest.raises(JobFailure, match=r"Vector\.compute_loss returned a tensor of shape \(None,\)") as caught:
        prepared(job(model="hooks/Vector"), tmp_path)
    assert caught.value.location is not None
    assert str(caught.value.location.file).endswith("test_fit_hooks.py")


@pytest.mark.parametrize(
    "method", ["train_step", "test_step", "make_train_function", "make_test_function", "fit", "evaluate", "compile"]
)
def test_a_model_method_that_no_job_calls_is_refused(tmp_path: Path, method: str) -> None:
    own = type("Own", (keras.Model,), {method: lambda self, *args, **kwargs: None, "__module__": __name__})
    with pytest.raises(ComponentError, match=rf"Own overrides {method}, which is not called here\. \w+"):
        component("hooks/Own")(own)

    def made() -> Any:
        x = keras.Input((4,))
        return own(x, keras.layers.Dense(3)(x))

    made.__module__ = __name__
    component(f"hooks/made_{method}", kind="model")(made)
    with pytest.raises(JobFailure, match=f"overrides {method}"):
        prepared(job(model=f"hooks/made_{method}"), tmp_path)


@pytest.mark.parametrize(
    ("base", "method", "remedy"),
    [
        (TrainingStep, "test_step", r"Call it validation_step\(batch, run\)"),
        (TrainingStep, "compile", "Declare `models`"),
        (TrainingStep, "fit", r"define only train_step\(batch, run\)"),
        (Callback, "on_train_end", r"on_epoch_end\(epoch, logs, run\)"),
        (Callback, "on_epoch_begin", r"on_epoch_end\(epoch, logs, run\)"),
        (keras.callbacks.Callback, "on_epoch_end", "Subclass tapeworks.Callback"),
        (keras.callbacks.ModelCheckpoint, "on_epoch_end", "Subclass tapeworks.Callback"),
    ],
)
def test_other_methods_that_nothing_calls_are_refused(base: type, method: str, remedy: str) -> None:
    own = type("Own", (base,), {method: lambda self, *args: None, "__module__": __name__})
    with pytest.raises(ComponentError, match=remedy):
        component("hooks/Uncalled")(own)


def test_a_step_may_call_its_own_test_step() -> None:
    class Validated(TrainingStep):
        def train_step(self, batch: Any, run: Any) -> Any:
            return {}

        def test_step(self, batch: Any) -> Any:
            return {}

        def validation_step(self, batch: Any, run: Any) -> Any:
            return self.test_step(batch)

    component("hooks/Validated")(Validated)


def test_what_a_base_from_a_library_overrides_is_a_warning() -> None:
    """Tasks of model libraries bring a compile of their own; a train_step is refused wherever it comes from."""
    library = {"compile": lambda self, **kwargs: None, "__module__": "somelib.tasks"}
    task = type("Task", (keras.Model,), library)
    own = type("Own", (task,), {"__module__": __name__})
    check_uncalled(own, Kind.MODEL, "hooks/Own")
    (warning,) = uncalled_of_libraries(own, Kind.MODEL)
    assert warning.startswith("compile of somelib.tasks is not called")
    stepping = type("Stepping", (keras.Model,), {**library, "train_step": lambda self, data: {}})
    with pytest.raises(ComponentError, match="overrides train_step"):
        check_uncalled(type("Own", (stepping,), {"__module__": __name__}), Kind.MODEL, "hooks/Own")
