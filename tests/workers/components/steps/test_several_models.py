"""`vae`, `distillation` and `contrastive`, against NumPy and the papers' formulas."""

from typing import Any

import keras
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import tensorflow as tf

from tapeworks_workers.components.steps.distillation import divergence as distilled
from tapeworks_workers.components.steps.vae import divergence, parameters
from tapeworks_workers.engine.export.export import exported_roles
from tests.support.step_jobs import (
    ELEMENT,
    FEATURES,
    SGD,
    assembled,
    assert_same_weights,
    batch,
    copy,
    descend,
    mlp,
    noise,
    trained,
    validated,
)

CROSS_ENTROPY = {"component": "keras/SparseCategoricalCrossentropy", "config": {"from_logits": True}}
BERNOULLI = {"component": "keras/BinaryCrossentropy", "config": {"from_logits": True}}


# ── vae ──────────────────────────────────────────────────────────────────────────────────────────


def vae(code: int = 4, loss: Any = BERNOULLI, decoded: int = FEATURES, **config: Any) -> Any:
    models = {"encoder": mlp(code), "decoder": mlp(decoded)}
    given = {"latent_dim": 2, **config}
    return assembled("vae", given, models, optimizers={"autoencoder": SGD}, losses={"decoder": loss})


def test_the_divergence_is_the_integral() -> None:
    mean, deviation = 0.7, 0.4
    p, q = scipy.stats.norm(mean, deviation), scipy.stats.norm()
    expected, _ = scipy.integrate.quad(lambda z: p.pdf(z) * (p.logpdf(z) - q.logpdf(z)), mean - 5, mean + 5)
    means, log_variances = np.full((3, 2), mean), np.full((3, 2), 2 * np.log(deviation))
    assert float(divergence(tf.constant(means), tf.constant(log_variances))) == pytest.approx(2 * expected, rel=1e-8)


@pytest.mark.slow
def test_vae_descends_the_evidence_lower_bound() -> None:
    assembly, (x, y) = vae(beta=0.5), batch()
    encoder, decoder = (copy(assembly.models[role]) for role in ("encoder", "decoder"))
    with tf.GradientTape(persistent=True) as tape:
        encoded = encoder(x)
        mean, log_variance = encoded[:, :2], encoded[:, 2:]
        logits = decoder(mean + tf.exp(log_variance / 2) * noise().normal([7, 2], dtype="float64"))
        log_p = tf.nn.sigmoid_cross_entropy_with_logits(x, logits)
        reconstruction = tf.reduce_mean(tf.reduce_sum(log_p, axis=1))
        kl = divergence(mean, log_variance)
        loss = reconstruction + 0.5 * kl
    descend(encoder, tape, loss)
    descend(decoder, tape, loss)
    expected = {"loss": float(loss), "reconstruction": float(reconstruction), "kl": float(kl)}
    assert trained(assembly, (x, y)) == pytest.approx(expected, rel=1e-6)  # Keras' binary cross-entropy adds epsilons
    for role, reference in (("encoder", encoder), ("decoder", decoder)):
        assert_same_weights(assembly.models[role], reference)


def test_vae_samples_in_validation_from_a_stream_of_its_own() -> None:
    assembly, given = vae(loss="keras/MeanSquaredError"), batch()
    encoded = assembly.models["encoder"](given[0]).numpy()
    code = encoded[:, :2] + np.exp(encoded[:, 2:] / 2) * noise("validation").normal([7, 2], dtype="float64")
    apart = assembly.models["decoder"](code).numpy() - given[0]
    assert validated(assembly, given)["reconstruction"] == pytest.approx((apart**2).sum(axis=1).mean(), rel=1e-9)


def test_vae_generates_and_reconstructs() -> None:
    assembly, (x, _) = vae(), batch()
    signatures = assembly.step.signatures(assembly.models)
    code = assembly.models["encoder"](x)[:, :2]
    np.testing.assert_array_equal(signatures["encoder"]["reconstruct"](x), assembly.models["decoder"](code))
    generate = signatures["decoder"]["generate"]
    first, again = (generate(tf.constant([3, 4], tf.int64), tf.constant(5)) for _ in range(2))
    assert first.shape == (5, FEATURES)
    np.testing.assert_array_equal(first, again)


def test_an_encoder_may_give_a_pair() -> None:
    mean, log_variance = np.ones((3, 2)), np.zeros((3, 2))
    for encoded in ([mean, log_variance], tf.concat([mean, log_variance], axis=1)):
        found = parameters(encoded, 2)
        np.testing.assert_array_equal(found[0], mean)
        np.testing.assert_array_equal(found[1], log_variance)


def test_models_of_another_size_are_told() -> None:
    with pytest.raises(ValueError, match=r"the encoder must give 2 means .* it gives \[\(None, 3\)\]"):
        trained(vae(code=3), batch())
    with pytest.raises(ValueError, match=r"the decoder gives \(None, 1\), the data's x is \(None, 4\)"):
        trained(vae(decoded=1), batch())


# ── distillation ─────────────────────────────────────────────────────────────────────────────────


def distillation(loss: Any = CROSS_ENTROPY, element: Any = ELEMENT, student: Any = None, **config: Any) -> Any:
    normalized = [
        {"component": "keras/Dense", "config": {"units": 6}},
        {"component": "keras/BatchNormalization"},
        {"component": "keras/Dropout", "config": {"rate": 0.5}},
        {"component": "keras/Dense", "config": {"units": 3}},
    ]
    models = {
        "student": student or mlp(3),
        "teacher": {"component": "sequential", "config": {"layers": normalized}},
    }
    losses = {} if loss is None else {"student": loss}
    return assembled("distillation", config, models, element=element, optimizers={"student": SGD}, losses=losses)


def test_distillation_is_the_weighted_sum_of_labels_and_softened_outputs() -> None:
    weighted = (*ELEMENT, tf.TensorSpec([None], tf.float64))
    assembly, (x, y) = distillation(element=weighted, temperature=3.0, alpha=0.3), batch()
    weight = np.linspace(0.5, 2, 7)
    teacher, student = (assembly.models[role](x).numpy() for role in ("teacher", "student"))
    p, log_q = scipy.special.softmax(teacher / 3, axis=1), scipy.special.log_softmax(student / 3, axis=1)
    soft = (weight * (p * (np.log(p) - log_q)).sum(axis=1)).mean()
    hard = -(weight * scipy.special.log_softmax(student, axis=1)[np.arange(7), y]).mean()
    expected = {"loss": 0.3 * hard + 0.7 * 9 * soft, "hard_loss": hard, "soft_loss": soft}
    assert validated(assembly, (x, y, weight)) == pytest.approx(expected, rel=1e-6)
    before = assembly.models["teacher"].get_weights()
    assert trained(assembly, (x, y, weight)) == pytest.approx(expected, rel=1e-6)
    for kept, value in zip(assembly.models["teacher"].get_weights(), before, strict=True):
        np.testing.assert_array_equal(kept, value)  # not even the moving averages
    assert exported_roles(assembly) == ["student"]


def test_at_high_temperature_logits_are_matched() -> None:
    """Section 2.1: the gradient in the student's logits tends to (z - v) / k, both of zero mean."""
    random = np.random.default_rng(1)
    teacher, student = (random.normal(size=(1, 5)) for _ in range(2))
    z = tf.constant(student)
    with tf.GradientTape() as tape:
        tape.watch(z)
        loss = 1e4**2 * distilled(tf.constant(teacher), z, 1e4)
    centred = [value - value.mean() for value in (student, teacher)]
    np.testing.assert_allclose(tape.gradient(loss, z), (centred[0] - centred[1]) / 5, rtol=1e-2, atol=1e-4)


def test_a_teacher_alone_needs_no_labels() -> None:
    assembly, (x, _) = distillation(loss=None, element=ELEMENT[0], temperature=2.0), batch()
    logs = trained(assembly, x)
    assert logs.keys() == {"loss", "soft_loss"}
    assert logs["loss"] == pytest.approx(4 * logs["soft_loss"])
    again = trained(assembly, x)
    assert 0 < again["loss"] < logs["loss"]


def test_one_logit_cannot_be_distilled() -> None:
    with pytest.raises(ValueError, match="logits of the same classes"):
        trained(distillation(student=mlp(1)), batch())


# ── contrastive ──────────────────────────────────────────────────────────────────────────────────

NOISE = {"component": "keras/GaussianNoise", "config": {"stddev": 0.5}}


def contrastive(*, element: Any = ELEMENT, random: bool = True) -> Any:
    layers = [*[NOISE] * random, {"component": "keras/Dense", "config": {"units": 6, "activation": "tanh"}}]
    models = {"encoder": {"component": "sequential", "config": {"layers": layers}}, "projection": mlp(3)}
    losses = {"projection": {"component": "nt_xent", "config": {"temperature": 0.2}}}
    return assembled("contrastive", {}, models, element=element, optimizers={"encoder": SGD}, losses=losses)


def nt_xent(first: Any, second: Any) -> float:
    """Equation 1, term by term."""
    z = np.concatenate([first, second])
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    n, e = len(first), np.exp(z @ z.T / 0.2)
    return float(np.mean([-np.log(e[i, (i + n) % (2 * n)] / (e[i].sum() - e[i, i])) for i in range(2 * n)]))


def test_two_given_views_meet_in_the_loss() -> None:
    view = ELEMENT[0]
    assembly = contrastive(element=({"first": view, "second": view}, ELEMENT[1]), random=False)
    given = ({"first": batch()[0], "second": batch(seed=1)[0]}, batch()[1])
    encoder, projection = (copy(assembly.models[role]) for role in ("encoder", "projection"))
    expected = nt_xent(*(projection(encoder(one)).numpy() for one in given[0].values()))
    assert validated(assembly, given)["loss"] == pytest.approx(expected, rel=1e-9)
    assert trained(assembly, given)["loss"] == pytest.approx(expected, rel=1e-9)
    assert trained(assembly, given)["loss"] < expected
    for role, before in (("encoder", encoder), ("projection", projection)):
        moved = zip(assembly.models[role].trainable_variables, before.trainable_variables, strict=True)
        assert all(not np.array_equal(now, then) for now, then in moved if "kernel" in now.path)


def test_an_encoder_with_random_layers_makes_two_views() -> None:
    """The same numbers twice would have the loss of validation, which draws nothing."""
    assembly, given = contrastive(), batch()
    assert assembly.input_specs["projection"] == tf.TensorSpec([None, 6], tf.float64)
    same = assembly.models["projection"](assembly.models["encoder"](given[0], training=False)).numpy()
    assert validated(assembly, given)["loss"] == pytest.approx(nt_xent(same, same), rel=1e-9)
    assert trained(assembly, given)["loss"] > nt_xent(same, same) + 1e-3


def test_the_projection_is_not_exported_unless_it_is_asked_for() -> None:
    assembly = contrastive()
    assert exported_roles(assembly) == ["encoder"]
    assert keras.config.floatx() == "float64"
