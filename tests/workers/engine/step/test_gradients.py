"""Who owns which variables, and what is done to gradients, optimizer by optimizer."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks import GradientTransform, TrainingStep, component
from tapeworks.components.loading import load_components
from tapeworks.errors import JobFailure
from tapeworks.spec.job_spec import JobSpec
from tapeworks_workers.engine.export.model_files import compile_arguments
from tapeworks_workers.engine.step.assembly import Assembly, assemble
from tapeworks_workers.engine.step.compiled_step import compile_train_step
from tapeworks_workers.engine.step.state import restore, snapshot
from tests.support.paths import ROOT
from tests.support.trainings import job, mlp, numbers, trained

ELEMENT = (tf.TensorSpec([None, 4], tf.float32), tf.TensorSpec([None], tf.int64))
RANDOM = np.random.RandomState(0)
BATCHES = [(RANDOM.normal(size=(10, 4)).astype("float32"), RANDOM.randint(0, 3, 10)) for _ in range(5)]
BODY = [{"model": "model", "layers": ["body*"]}]
HEAD = [{"model": "model", "layers": ["head"]}]


def layered() -> dict[str, Any]:
    """Two body layers and a head."""
    layers = [
        {"component": "keras/Dense", "config": {"units": 6, "activation": "relu", "name": "body_in"}},
        {"component": "keras/Dense", "config": {"units": 5, "activation": "tanh", "name": "body_out"}},
        {"component": "keras/Dense", "config": {"units": 3, "name": "head"}},
    ]
    return {"component": "sequential", "config": {"layers": layers}}


def sgd(rate: float, variables: Any = None, **config: Any) -> dict[str, Any]:
    reference = {"component": "keras/SGD", "config": {"learning_rate": rate, **config}}
    return reference if variables is None else {**reference, "variables": variables}


def divided(**changes: Any) -> JobSpec:
    adam = {"component": "keras/Adam", "config": {"learning_rate": 0.01}, "variables": HEAD}
    parts = {"optimizer": None, "optimizers": {"head": adam, "body": sgd(0.1, BODY)}, "model": layered()}
    return job(**{**parts, **changes})


def stepped(spec: JobSpec, steps: int = 5) -> Assembly:
    assembly = assemble(spec, ELEMENT)
    step = compile_train_step(assembly)
    for batch in BATCHES[:steps]:
        step(batch)
    return assembly


def layers_of(assembly: Assembly) -> dict[str, set[str]]:
    return {name: {v.path.split("/")[-2] for v in owned} for name, owned in assembly.owned.items()}


# ── ownership ────────────────────────────────────────────────────────────────────────────────────


def test_two_optimizers_on_one_models_layers() -> None:
    ours = assemble(divided(), ELEMENT)
    assert layers_of(ours) == {"body": {"body_in", "body_out"}, "head": {"head"}}
    model = keras.models.clone_model(ours.models["model"])
    model.set_weights(ours.models["model"].get_weights())
    optimizers = keras.optimizers.SGD(0.1), keras.optimizers.Adam(0.01)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    step = compile_train_step(ours)
    for x, y in BATCHES:
        step((x, y))
        with tf.GradientTape() as tape:
            loss = loss_of(y, model(x, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizers[0].apply(gradients[:4], model.trainable_variables[:4])
        optimizers[1].apply(gradients[4:], model.trainable_variables[4:])
    for mine, theirs in zip(ours.models["model"].get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
    assert compile_arguments(ours, "model") is None, "fit has one optimizer, so it could not go on"


def test_the_declared_optimizer_may_be_one_of_several() -> None:
    ours = assemble(divided(optimizers={"model": sgd(0.1, BODY), "head": sgd(0.0, HEAD)}), ELEMENT)
    assert layers_of(ours) == {"model": {"body_in", "body_out"}, "head": {"head"}}
    whole = assemble(job(optimizer=sgd(0.1, [{"model": "model"}])), ELEMENT)
    assert len(whole.owned["model"]) == 4
    compile_train_step(whole)  # a trace shows the outputs that the losses are for
    assert compile_arguments(whole, "model") is not None


@component("lab/Pair")
class Pair(TrainingStep):
    """One optimizer over two models."""

    models = ("encoder", "decoder")
    optimizers = {"both": ("encoder", "decoder")}  # noqa: RUF012

    def input_spec(self, role: str, element: Any, models: Any) -> Any:
        return tf.TensorSpec([None, 2]) if role == "decoder" else element[0]

    def train_step(self, batch: Any, run: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            code = run.models["encoder"](batch[0], training=True)
            loss = tf.reduce_mean((run.models["decoder"](code, training=True) - batch[0]) ** 2)
        run.minimize("both", loss, tape)
        return {"loss": loss}


def pair(**optimizers: Any) -> JobSpec:
    models = {"encoder": mlp(2), "decoder": mlp(4)}
    return job(model=None, optimizer=None, loss=None, step="lab/Pair", models=models, optimizers=optimizers)


def test_one_optimizer_over_two_models_and_one_for_each() -> None:
    one = stepped(pair(both=sgd(0.1)))
    assert len(one.owned["both"]) == 8
    each = {name: sgd(0.1, [{"model": name}]) for name in ("decoder", "encoder")}
    two = stepped(pair(**each))
    assert [len(two.owned[name]) for name in ("encoder", "decoder")] == [4, 4]
    for role in ("encoder", "decoder"):
        for mine, theirs in zip(one.models[role].get_weights(), two.models[role].get_weights(), strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizers", "told"),
    [
        ({"body": sgd(0.1, BODY)}, r"no optimizer owns 2 trainable variables of role 'model', the first is .*head"),
        ({"a": sgd(0.1, [{"model": "model"}]), "b": sgd(0.1, HEAD)}, r"head.* has two optimizers: 'a' and 'b'"),
        ({"model": sgd(0.1), "head": sgd(0.1, HEAD)}, r"'model' owns all variables of \['model'\], and 'head' owns"),
        ({"head": sgd(0.1)}, r"declares no 'head'"),
        ({"a": sgd(0.1, [{"model": "critic"}])}, r"owns variables of \['critic'\], which no single optimizer"),
        ({"a": sgd(0.1, [{"model": "model", "layers": ["body*", "haed"]}])},
         r"/optimizers/a/variables/0/layers/1: 'haed' matches no layer; there are: body_in, body_out, head"),
    ],
)  # fmt: skip
def test_every_variable_has_one_owner(optimizers: dict[str, Any], told: str) -> None:
    with pytest.raises(JobFailure, match=told) as caught:
        assemble(divided(optimizers=optimizers), ELEMENT)
    assert caught.value.code == "invalid_spec"


def test_a_frozen_layer_has_no_owner_and_stays() -> None:
    model = layered()
    for layer in model["config"]["layers"][:2]:
        layer["config"]["trainable"] = False
    ours = assemble(divided(model=model, optimizers={"head": sgd(0.1, HEAD)}), ELEMENT)
    before = ours.models["model"].get_weights()
    compile_train_step(ours)(BATCHES[0])
    changed = [not np.array_equal(a, b) for a, b in zip(before, ours.models["model"].get_weights(), strict=True)]
    assert changed == [False] * 4 + [True] * 2
    with pytest.raises(JobFailure, match="/optimizers/body/variables/0 holds no trainable variable"):
        assemble(divided(model=model), ELEMENT)


def test_layers_inside_layers_are_named_by_path() -> None:
    inner = {"component": "mlp", "config": {"hidden": [3], "outputs": 3}}
    head = {"component": "keras/Dense", "config": {"units": 3, "name": "head"}}
    model = {"component": "sequential", "config": {"layers": [inner, head]}}
    parts = {"inner": sgd(0.1, [{"model": "model", "layers": ["mlp/*"]}]), "head": sgd(0.1, HEAD)}
    ours = assemble(divided(model=model, optimizers=parts), ELEMENT)
    assert [len(ours.owned[name]) for name in ("inner", "head")] == [4, 2]


@pytest.mark.parametrize(
    "argument", [{"loss_scale_factor": 2.0}, {"gradient_accumulation_steps": 2}, {"clipnorm": 1.0}]
)
def test_what_the_job_does_is_not_done_again_by_keras(argument: dict[str, float]) -> None:
    clip = [{"component": "clip_by_norm", "config": {"max_norm": 1.0}}]
    with pytest.raises(JobFailure, match=f"/optimizers/model/config/{next(iter(argument))}"):
        assemble(job(optimizer=sgd(0.1, **argument), gradients=clip), ELEMENT)


# ── transforms ───────────────────────────────────────────────────────────────────────────────────


def test_a_transform_for_one_optimizer_leaves_the_other_alone() -> None:
    stop = [{"component": "lab/Times", "config": {"factor": 0.0}, "optimizer": "body"}]
    ours = assemble(divided(gradients=stop), ELEMENT)
    before = ours.models["model"].get_weights()
    compile_train_step(ours)(BATCHES[0])
    moved = [np.abs(old - new).max() for old, new in zip(before, ours.models["model"].get_weights(), strict=True)]
    assert moved[:4] == [0, 0, 0, 0]
    assert min(moved[4:]) > 0
    with pytest.raises(JobFailure, match="/gradients/0/optimizer: the step 'supervised' does not declare 'model'"):
        assemble(divided(gradients=[{**stop[0], "optimizer": "model"}]), ELEMENT)


@component("lab/Seen")
class Seen(GradientTransform):
    """Records the largest entry of the last gradient that it saw."""

    def __init__(self) -> None:
        self.metrics = [keras.metrics.Mean(name="seen")]

    def __call__(self, gradients: Any, variables: Any, run: Any) -> Any:
        self.metrics[0].update_state(tf.reduce_max([tf.reduce_max(one) for one in gradients]))
        return gradients


def test_metrics_of_transforms_are_reported_and_begin_anew_with_each_epoch(tmp_path: Path) -> None:
    clip = {"component": "clip_by_global_norm", "config": {"max_norm": 0.001}}
    gradients = ["gradient_norm", clip, {"component": "gradient_norm", "config": {"name": "clipped"}}, "lab/Seen"]
    result = trained(job(gradients=gradients, data={"validation": 0.2}), tmp_path)
    logs = [event["logs"] for event in result.events("epoch")]
    assert set(logs[0]) == {"loss", "val_loss", "gradient_norm", "gradient_norm_max", "clipped", "clipped_max", "seen"}
    for one in logs:
        assert 0.001 < one["gradient_norm"] < one["gradient_norm_max"]
        assert one["clipped"] == pytest.approx(0.001, rel=1e-4)
        assert 0 < one["seen"] <= 0.001
    assert logs[0]["gradient_norm"] != logs[1]["gradient_norm"]
    assert int(result.values()["metrics/gradient_norm/1"]) == 8, "the updates of the last epoch"


def test_metrics_go_by_the_optimizers_name_and_into_checkpoints() -> None:
    first = stepped(divided(gradients=["gradient_norm"]), 3)
    names = [metric.name for metric in first.all_metrics()]
    assert names == ["body_gradient_norm", "body_gradient_norm_max", "head_gradient_norm", "head_gradient_norm_max"]
    expected = [float(metric.metric.result()) for metric in first.all_metrics()]
    second = assemble(divided(gradients=["gradient_norm"]), ELEMENT)
    compile_train_step(second)
    restore(second, snapshot(first, {}))
    assert [float(metric.metric.result()) for metric in second.all_metrics()] == expected
    assert list(second.all_metrics("validation")) == []
    with pytest.raises(JobFailure, match="two gradient transforms of optimizer 'model' report 'gradient_norm'"):
        assemble(job(gradients=["gradient_norm", "gradient_norm"]), ELEMENT)


# ── gradients and apply apart ────────────────────────────────────────────────────────────────────


def test_sam_is_the_papers_loop(tmp_path: Path) -> None:
    load_components([ROOT / "examples/gradients/acme_sam.py"])
    spec = job(
        step={"component": "acme/Sam", "config": {"rho": 0.1}}, model=layered(), optimizer=sgd(0.2, momentum=0.9)
    )
    ours = assemble(spec, ELEMENT)
    model = keras.models.clone_model(ours.models["model"])
    model.set_weights(ours.models["model"].get_weights())
    step, optimizer = compile_train_step(ours), keras.optimizers.SGD(0.2, momentum=0.9)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def gradients(x: Any, y: Any) -> list[np.ndarray]:
        with tf.GradientTape() as tape:
            loss = loss_of(y, model(x, training=True))
        return [np.asarray(one) for one in tape.gradient(loss, model.trainable_variables)]

    for x, y in BATCHES:
        step((x, y))
        start, uphill = model.get_weights(), gradients(x, y)
        length = np.sqrt(sum(float((one**2).sum()) for one in uphill))
        model.set_weights([w + 0.1 * g / length for w, g in zip(start, uphill, strict=True)])
        downhill = gradients(x, y)
        model.set_weights(start)
        optimizer.apply(downhill, model.trainable_variables)
    for mine, theirs in zip(ours.models["model"].get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
    curve = trained(spec, tmp_path).history("loss")
    assert curve[1] < curve[0]


def test_a_step_that_gives_too_few_gradients_is_told() -> None:
    with pytest.raises(JobFailure, match="owns 6 variables, the step gives 1 gradients"):
        stepped(divided(step="lab/Short", loss=None), 1)


@component("lab/Short")
class Short(TrainingStep):
    """Forgets most gradients."""

    def train_step(self, batch: Any, run: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(run.models["model"](batch[0], training=True))
        run.apply("model", run.gradients("model", loss, tape)[:1])
        return {"loss": loss}


def test_moving_averages_of_several_optimizers_under_accumulation(tmp_path: Path) -> None:
    ema = {"use_ema": True, "ema_momentum": 0.5}
    parts = {"body": sgd(0.1, BODY, **ema), "head": sgd(0.2, HEAD)}
    data = {"source": numbers(60), "validation": None}
    result = trained(divided(optimizers=parts, data=data, training={"gradient_accumulation": 3}), tmp_path)
    body = result.assembly.optimizers["body"]
    assert int(body.iterations) == 4
    for variable, average in zip(result.assembly.owned["body"], body._model_variables_moving_average, strict=True):
        np.testing.assert_array_equal(variable.numpy(), average.numpy())
    large = [{"op": "batch", "batch_size": 30}]
    once = trained(divided(optimizers=parts, data={**data, "pipeline": large}), tmp_path / "large")
    for mine, theirs in zip(
        result.assembly.models["model"].get_weights(), once.assembly.models["model"].get_weights(), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
