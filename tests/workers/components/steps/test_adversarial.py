"""`gan` and `wgan_gp`, against the papers' algorithms written out in TensorFlow, and numeric gradients."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks.errors import JobFailure
from tapeworks_workers.components.steps.wgan_gp import gradient_penalty
from tests.support.step_jobs import (
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

LATENT = 3
REGULARIZED = {"kernel_regularizer": {"component": "keras/L2", "config": {"l2": 0.03}}}


def gan(loss: Any = "non_saturating_gan", generator_loss: Any = None, **config: Any) -> Any:
    return assembled(
        "gan", {"latent_dim": LATENT, **config},
        {"generator": mlp(FEATURES, **REGULARIZED), "discriminator": mlp(1, **REGULARIZED)},
        optimizers={"generator": SGD, "discriminator": SGD},
        losses={"generator": generator_loss or loss, "discriminator": loss},
    )  # fmt: skip


def wgan(**config: Any) -> Any:
    return assembled(
        "wgan_gp", {"latent_dim": LATENT, **config},
        {"generator": mlp(FEATURES), "critic": mlp(1)}, optimizers={"generator": SGD, "critic": SGD},
    )  # fmt: skip


def penalties(model: keras.Model) -> Any:
    return tf.add_n(model.losses)


@pytest.mark.slow
def test_gan_is_algorithm_1() -> None:
    """Two updates of the discriminator on noise of their own, then the generator against the discriminator so far."""
    assembly, (x, y) = gan(discriminator_steps=2, label_smoothing=0.1), batch()
    generator, discriminator = (copy(assembly.models[role]) for role in ("generator", "discriminator"))
    stream = noise()
    for _ in range(2):
        fake = generator(stream.normal([7, LATENT], dtype="float64"))
        with tf.GradientTape() as tape:
            on_real, on_fake = discriminator(x), discriminator(fake)
            on_real_loss = 0.9 * tf.nn.softplus(-on_real) + 0.1 * tf.nn.softplus(on_real)
            d_loss = tf.reduce_mean(on_real_loss) + tf.reduce_mean(tf.nn.softplus(on_fake)) + penalties(discriminator)
        descend(discriminator, tape, d_loss)
    latent = stream.normal([7, LATENT], dtype="float64")
    with tf.GradientTape() as tape:
        g_loss = tf.reduce_mean(tf.nn.softplus(-discriminator(generator(latent)))) + penalties(generator)
    descend(generator, tape, g_loss)
    assert trained(assembly, (x, y)) == pytest.approx({"d_loss": float(d_loss), "g_loss": float(g_loss)}, rel=1e-10)
    assert_same_weights(assembly.models["discriminator"], discriminator)
    assert_same_weights(assembly.models["generator"], generator)


def test_gan_takes_each_players_loss_from_the_spec() -> None:
    loss = {"component": "hinge_gan", "config": {"player": "generator"}}
    assembly, given = gan("hinge_gan", loss), batch()
    generator, discriminator = (copy(assembly.models[role]) for role in ("generator", "discriminator"))
    fake = generator(noise("validation").normal([7, LATENT], dtype="float64"))
    on_real, on_fake = discriminator(given[0]), discriminator(fake)
    expected = {
        "d_loss": float(tf.reduce_mean(tf.nn.relu(1 - on_real)) + tf.reduce_mean(tf.nn.relu(1 + on_fake))),
        "g_loss": float(-tf.reduce_mean(on_fake)),
    }
    expected["d_loss"] += float(penalties(discriminator))
    expected["g_loss"] += float(penalties(generator))
    assert validated(assembly, given) == pytest.approx(expected, rel=1e-10)
    assert_same_weights(assembly.models["generator"], generator)


def test_a_loss_that_the_spec_lacks_is_told() -> None:
    models = {"generator": mlp(FEATURES), "discriminator": mlp(1)}
    optimizers = {"generator": SGD, "discriminator": SGD}
    losses = {"generator": "non_saturating_gan"}
    with pytest.raises(JobFailure, match=r"/losses/discriminator: the step 'gan' needs losses\.discriminator"):
        assembled("gan", {"latent_dim": LATENT}, models, optimizers=optimizers, losses=losses)


@pytest.mark.parametrize(("step", "judge"), [("gan", "discriminator"), ("wgan_gp", "critic")])
def test_a_generator_of_another_shape_is_told(step: str, judge: str) -> None:
    """Also where the other model would take any: a pooling discriminator, an interpolation that broadcasts."""
    anything = {"component": "sequential", "config": {"layers": [{"component": "keras/UnitNormalization"}]}}
    losses = dict.fromkeys(("generator", judge), "wasserstein") if step == "gan" else {}
    assembly = assembled(
        step, {"latent_dim": LATENT}, {"generator": mlp(1), judge: anything},
        optimizers={"generator": SGD, judge: SGD}, losses=losses,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"the generator gives \(None, 1\), the data's x is \(None, 4\)"):
        trained(assembly, batch())


@pytest.mark.slow
@pytest.mark.parametrize("step", ["gan", "wgan_gp"])
def test_generate_draws_from_its_seed_alone(step: str) -> None:
    assembly = gan() if step == "gan" else wgan()
    generate = assembly.step.signatures(assembly.models)["generator"]["generate"]
    first = generate(tf.constant([1, 2], tf.int64), tf.constant(6))
    assert first.shape == (6, FEATURES)
    np.testing.assert_array_equal(first, generate(tf.constant([1, 2], tf.int64), tf.constant(6)))
    assert not np.array_equal(first, generate(tf.constant([1, 3], tf.int64), tf.constant(6)))
    assert {operation.type for operation in generate.get_concrete_function().graph.get_operations()} & {
        "RngReadAndSkip", "RandomStandardNormal",
    } == set()  # fmt: skip


def test_the_penalty_is_that_of_numeric_gradients() -> None:
    """In value, and in its own gradient in the critic's weights."""
    critic = copy(wgan().models["critic"])
    x, step = batch(3)[0] * 2, 1e-6

    def brute_force() -> float:
        moved = [(critic(x + step * unit)[:, 0] - critic(x - step * unit)[:, 0]) for unit in np.eye(FEATURES)]
        norms = np.sqrt(sum((np.asarray(one) / (2 * step)) ** 2 for one in moved))
        return float(((norms - 1) ** 2).mean())

    with tf.GradientTape() as tape:
        penalty = gradient_penalty(critic, tf.constant(x), training=True)
    assert float(penalty) == pytest.approx(brute_force(), rel=1e-8)
    kernel = critic.trainable_variables[0]
    found, wide = tape.gradient(penalty, kernel).numpy(), 1e-3
    for index in ((0, 0), (2, 3)):
        ends, before = [], kernel.numpy()
        for sign in (1, -1):
            moved = before.copy()
            moved[index] += sign * wide
            kernel.assign(moved)
            ends.append(brute_force())
        kernel.assign(before)
        assert found[index] == pytest.approx((ends[0] - ends[1]) / (2 * wide), rel=1e-4, abs=1e-7)


def test_the_penalty_of_a_flat_critic_has_a_gradient() -> None:
    critic = copy(wgan().models["critic"])
    critic.set_weights([np.zeros_like(weight) for weight in critic.get_weights()])
    with tf.GradientTape() as tape:
        penalty = gradient_penalty(critic, tf.constant(batch()[0]), training=True)
    assert float(penalty) == pytest.approx(1.0)
    gradients = [one for one in tape.gradient(penalty, critic.trainable_variables) if one is not None]
    assert gradients
    assert all(np.isfinite(one).all() for one in gradients)


def test_wgan_gp_is_algorithm_1() -> None:
    assembly, (x, y) = wgan(critic_steps=2, penalty_weight=3.0), batch()
    generator, critic = copy(assembly.models["generator"]), copy(assembly.models["critic"])
    stream = noise()
    for _ in range(2):
        fake = generator(stream.normal([7, LATENT], dtype="float64"))
        place = stream.uniform([7, 1], dtype="float64")
        with tf.GradientTape() as tape:
            distance = tf.reduce_mean(critic(x)) - tf.reduce_mean(critic(fake))
            between = place * x + (1 - place) * fake
            with tf.GradientTape() as inner:
                inner.watch(between)
                scores = critic(between)
            norms = tf.norm(inner.gradient(scores, between), axis=1)
            penalty = tf.reduce_mean((norms - 1) ** 2)
            loss = 3 * penalty - distance
        descend(critic, tape, loss)
    latent = stream.normal([7, LATENT], dtype="float64")
    with tf.GradientTape() as tape:
        g_loss = -tf.reduce_mean(critic(generator(latent)))
    descend(generator, tape, g_loss)
    expected = {"critic_loss": loss, "wasserstein": distance, "gradient_penalty": penalty, "generator_loss": g_loss}
    assert trained(assembly, (x, y)) == pytest.approx({k: float(v) for k, v in expected.items()}, rel=1e-9)
    assert_same_weights(assembly.models["critic"], critic)
    assert_same_weights(assembly.models["generator"], generator)
