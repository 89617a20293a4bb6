"""The built-in steps and the example of one, in whole trainings: plans, splits, counters, resumes and bundles."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.config import disable_op_determinism

from tapeworks.components.loading import load_components
from tapeworks.spec.parsing import parse_spec
from tapeworks.spec.references import Kind
from tapeworks_workers.engine import runtime
from tapeworks_workers.engine.factory.factory import build
from tests.support.paths import ROOT
from tests.support.tiers import some
from tests.support.trainings import BATCH, CROSS_ENTROPY, SHUFFLE, Trained, job, mlp, numbers, prepared, trained
from tests.workers.engine.conftest import BATCH as EXPORT_BATCH
from tests.workers.engine.conftest import FEATURES, exported
from tests.workers.engine.conftest import trained as trained_once

EXAMPLES = ROOT / "examples"
ADAM = "keras/Adam"
NOISE = {"component": "keras/GaussianNoise", "config": {"stddev": 0.3}}


def chain(*layers: dict[str, Any], units: int) -> dict[str, Any]:
    return {
        "component": "sequential",
        "config": {"layers": [*layers, {"component": "keras/Dense", "config": {"units": units}}]},
    }


NORMAL = {"component": "keras/BatchNormalization"}
CASES: dict[str, dict[str, Any]] = {
    "gan": {
        "step": {"component": "gan", "config": {"latent_dim": 3, "discriminator_steps": 2}},
        "models": {"generator": chain(NORMAL, units=4), "discriminator": mlp(1, dropout=0.2)},
        "optimizers": {"generator": ADAM, "discriminator": ADAM},
        "losses": {"generator": "non_saturating_gan", "discriminator": "non_saturating_gan"},
        "metrics": {"discriminator": [{"component": "keras/BinaryAccuracy", "config": {"threshold": 0.0}}]},
    },
    "wgan_gp": {
        "step": {"component": "wgan_gp", "config": {"latent_dim": 3, "critic_steps": 2}},
        "models": {"generator": mlp(4), "critic": mlp(1)},
        "optimizers": {"generator": ADAM, "critic": ADAM},
    },
    "vae": {
        "step": {"component": "vae", "config": {"latent_dim": 2}},
        "models": {"encoder": mlp(4), "decoder": mlp(4)},
        "optimizers": {"autoencoder": ADAM},
        "losses": {"decoder": "keras/MeanSquaredError"},
    },
    "distillation": {
        "step": "distillation",
        "models": {"student": mlp(3, dropout=0.2), "teacher": mlp(3)},
        "optimizers": {"student": ADAM},
        "losses": {"student": CROSS_ENTROPY},
        "metrics": {"student": ["keras/SparseCategoricalAccuracy"]},
    },
    "contrastive": {
        "step": "contrastive",
        "models": {"encoder": chain(NOISE, units=6), "projection": mlp(3)},
        "optimizers": {"encoder": ADAM},
        "losses": {"projection": "nt_xent"},
    },
}
UPDATES = {
    "gan": {"generator": 1, "discriminator": 2},
    "wgan_gp": {"generator": 1, "critic": 2},
    "vae": {"autoencoder": 1},
    "distillation": {"student": 1},
    "contrastive": {"encoder": 1},
    "cycle": {"translators": 1, "judges": 1},
}
LOGS = {
    "gan": {"d_loss", "g_loss", "discriminator_binary_accuracy"},
    "wgan_gp": {"critic_loss", "wasserstein", "gradient_penalty", "generator_loss"},
    "vae": {"loss", "reconstruction", "kl"},
    "distillation": {"loss", "hard_loss", "soft_loss", "student_sparse_categorical_accuracy"},
    "contrastive": {"loss"},
    "cycle": {"translator_loss", "judge_loss", "cycle_loss"},
}


def case(name: str, **changes: Any) -> Any:
    """A small job; 35 elements in batches of 10, the last one short."""
    source = numbers(35, "unpaired" if name == "cycle" else "plain")
    parts = CASES[name] if name in CASES else cycle()
    data = {"source": source, "pipeline": [SHUFFLE, BATCH], **changes.pop("data", {})}
    training = {"epochs": 1, **changes.pop("training", {})}
    return job(**{"model": None, "optimizer": None, "loss": None, **parts, **changes}, data=data, training=training)


def cycle() -> dict[str, Any]:
    """The example, with smaller models."""
    load_components([EXAMPLES / "several-models" / "acme_cycle.py"])
    spec = json.loads((EXAMPLES / "several-models" / "cycle.json").read_text())
    models = {role: {**model, "config": {**model["config"], "hidden": [8]}} for role, model in spec["models"].items()}
    return {"models": models, **{key: spec[key] for key in ("step", "optimizers", "losses")}}


@pytest.fixture
def deterministic() -> Iterator[None]:
    """What a runner sets for a deterministic job; a test process must take it back."""
    runtime.prepare(job(training={"deterministic": True}))
    yield
    disable_op_determinism()


def weights(result: Trained) -> dict[str, np.ndarray]:
    return {name: value for name, value in result.values().items() if name.startswith(("models/", "optimizers/"))}


@pytest.mark.slow
@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("name", some([*CASES, "cycle"], {"gan", "contrastive"}.__contains__))
def test_a_step_trains_alike_in_every_plan(tmp_path: Path, name: str) -> None:
    """One trace; the weights are the same without validation, so what that draws is its own."""
    whole = trained(
        case(name, data={"validation": numbers(15, "unpaired" if name == "cycle" else "plain")},
             training={"deterministic": True}),
        tmp_path,
    )  # fmt: skip
    assert [(trace["function"], trace["count"]) for trace in whole.events("trace")] == [
        ("training", 1), ("validation", 1),
    ]  # fmt: skip
    (logs,) = [event["logs"] for event in whole.events("epoch")]
    assert logs.keys() == LOGS[name] | {f"val_{log}" for log in LOGS[name]}
    assert all(np.isfinite(value) for value in logs.values())
    iterations = {optimizer: int(one.iterations) for optimizer, one in whole.assembly.optimizers.items()}
    assert iterations == {optimizer: 4 * updates for optimizer, updates in UPDATES[name].items()}
    for plan in ("steps", "fused", "eager") if name == "gan" else ("fused", "eager"):
        other = trained(case(name, training={"deterministic": True, "execution": {"plan": plan}}), tmp_path / plan)
        for variable, value in weights(whole).items():
            if name == "wgan_gp" and variable.endswith("logits/bias"):
                continue  # its gradient is zero but for rounding, which Adam makes as large as any other
            np.testing.assert_allclose(other.values()[variable], value, rtol=1e-4, atol=1e-5, err_msg=variable)


@pytest.mark.slow
@pytest.mark.usefixtures("deterministic")
def test_a_gan_resumes_in_the_middle_with_the_same_bytes(tmp_path: Path) -> None:
    checkpoint = {"every_steps": 3, "every_seconds": None, "keep": 99}
    spec = case("gan", training={"epochs": 2, "deterministic": True, "checkpoint": checkpoint})
    whole = trained(spec, tmp_path / "whole")
    resumed = trained(spec, tmp_path / "resumed", resume=whole.checkpoints()[0])
    expected, found = whole.values(), resumed.values()
    assert [name for name in expected if expected[name].tobytes() != found[name].tobytes()] == []
    assert whole.training.counters == resumed.training.counters


def document(name: str, **parts: Any) -> dict[str, Any]:
    """The same job for the batches of the exports' tests."""
    data = {"source": "iris", "pipeline": [{"op": "batch", "batch_size": EXPORT_BATCH}]}
    return {"data": data, **(CASES[name] if name in CASES else cycle()), **parts}


@pytest.mark.slow
@pytest.mark.parametrize("name", some(["gan", "vae", "contrastive"], "gan".__eq__))
def test_a_bundle_passes_both_verifiers(acme: Path, tmp_path: Path, verify: Any, name: str) -> None:
    wide = {"gan": {"generator": chain(NORMAL, units=FEATURES)}, "vae": {"decoder": mlp(FEATURES)}}
    assembly = trained_once(document(name, models={**CASES[name]["models"], **wide.get(name, {})}))
    draft = exported(assembly, tmp_path / "bundle")
    assert draft.models == (["encoder"] if name == "contrastive" else list(assembly.models))
    answers = {verifier: verify(verifier, draft.folder) for verifier in ("reload", "certify")}
    assert all(answer["ok"] for answer in answers.values()), answers
    assert answers["certify"]["report"]["step"]["max_abs_difference"] == 0.0
    if name == "gan":
        loaded = tf.saved_model.load(str(draft.folder / draft.manifest["models"]["generator"]["saved_model"]))
        seed = tf.constant([7, 8], tf.int64)
        samples = loaded.signatures["generate"](seed=seed, n=tf.constant(5))["output_0"]
        noise = tf.random.stateless_normal([5, 3], seed, alg="philox")
        np.testing.assert_allclose(samples, assembly.models["generator"](noise, training=False), atol=1e-6)


@pytest.mark.slow
def test_a_bundle_of_unpaired_domains_passes_both_verifiers(acme: Path, tmp_path: Path, verify: Any) -> None:
    """Probes are parts of the element's parts; the judges serve the loss alone."""
    random = np.random.default_rng(2)
    data = [{name: random.normal(size=(6, 2)).astype("float32") for name in ("a", "b")} for _ in range(3)]
    element = dict.fromkeys(("a", "b"), tf.TensorSpec([None, 2]))
    draft = exported(trained_once(document("cycle"), element=element, data=data), tmp_path / "bundle", data=data)
    assert draft.models == ["to_b", "to_a"]
    probes = draft.manifest["models"]["to_b"]["probe"]["batches"]
    assert len(probes) == 2
    answers = {verifier: verify(verifier, draft.folder) for verifier in ("reload", "certify")}
    assert all(answer["ok"] for answer in answers.values()), answers


@pytest.mark.thorough
def test_the_dcgan_of_the_examples_passes_its_measure(tmp_path: Path) -> None:
    """Below the stated distance when it is trained, which untrained it is far from."""
    document = json.loads((EXAMPLES / "several-models" / "dcgan.json").read_text())
    limit = float(document["labels"]["passes"].rpartition(" ")[2])
    measure = build(document.pop("evaluators")[0], Kind.EVALUATOR)
    spec = parse_spec({**document, "training": {**document["training"], "checkpoint": None}})
    result = prepared(spec, tmp_path)
    validation = result.data.validation
    assert validation is not None

    def distance() -> float:
        found: float = measure.evaluate(validation.dataset(0), result.assembly.run)["frechet_distance"]
        return found

    assert distance() > 5 * limit
    result.training.train()
    assert distance() < limit
