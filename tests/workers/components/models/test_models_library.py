"""What the built-in models compute, against NumPy, and what they refuse."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks.errors import JobFailure
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.factory.factory import build

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(4, 8, 8, 1)).astype("float32")
SENTENCES = [[1, 2, 3], [], [4], [0, 1]]
IDS = tf.ragged.constant(SENTENCES, dtype=tf.int64)


def model(component: str, **config: Any) -> Any:
    return build({"component": component, "config": config}, Kind.MODEL)


def close(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=tolerance, atol=tolerance)


# ── images ───────────────────────────────────────────────────────────────────────────────────────


def test_resnet_has_the_papers_depth_and_halves_each_stage() -> None:
    network = model("resnet", outputs=10, blocks=2, widths=[2, 3, 4])
    assert network(IMAGES).shape == (4, 10)
    on_the_path = [one for one in network.trainable_variables if len(one.shape) >= 2 and "projection" not in one.path]
    assert len(on_the_path) == 2 * 2 * 3 + 2
    assert [one.compute_output_shape((None, 8, 8, 2))[1] for one in network.blocks] == [8, 8, 4, 8, 4, 8]
    for block in network.blocks:
        block.normalizations[1].gamma.assign(tf.zeros_like(block.normalizations[1].gamma))
    straight = network.blocks[1]
    hidden = np.abs(RANDOM.normal(size=(2, 8, 8, 2))).astype("float32")
    close(straight(hidden), hidden)  # nothing but the shortcut is left
    with pytest.raises(ValueError, match="resnet takes"):
        model("resnet", outputs=2)(IMAGES[:, 0, 0])
    with pytest.raises(JobFailure, match="needs a stage"):
        model("resnet", outputs=2, widths=[])


def test_autoencoder_is_its_halves_and_gives_odd_images_their_size() -> None:
    network = model("autoencoder", code=3, hidden=[6], filters=[4, 5])
    images = IMAGES[:, :7, :5]
    assert network(images).shape == (4, 7, 5, 1)
    assert network.encoder(images).shape == (4, 3)
    close(network(images), network.decoder(network.encoder(images)))
    units = [layer.units for layer in network.decoder.layers if isinstance(layer, keras.layers.Dense)]
    assert units == [6, 2 * 2 * 5], "the decoder is the encoder in reverse"
    assert model("autoencoder", code=2)(IMAGES).shape == IMAGES.shape, "dense models take any shape"
    with pytest.raises(ValueError, match="filters are for images"):
        model("autoencoder", code=2, filters=[3])(IMAGES[..., 0])
    with pytest.raises(ValueError, match="must be known"):
        model("autoencoder", code=2)(keras.KerasTensor((None, None, 3)))


def test_vae_adds_its_divergence_and_draws_while_training() -> None:
    network = model("vae", latent=2, hidden=[5], weight=0.25, seed=1)
    close(network(IMAGES), network(IMAGES, training=False))
    encoded = network.encoder(IMAGES).numpy()
    mean, log_variance = encoded[:, :2], encoded[:, 2:]
    each = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance)
    close(network.losses[-1], 0.25 * each.sum(1).mean())
    close(network(IMAGES), network.decoder(mean))
    first, second = network(IMAGES, training=True), network(IMAGES, training=True)
    assert not np.allclose(first, second)
    assert len(network.losses) == 1, "the last call's"


def test_the_halves_of_a_vae_alone() -> None:
    encode, decode = model("gaussian_encoder", latent=2, filters=[3]), model("decoder", shape=[8, 8, 1], filters=[4, 3])
    mean, log_variance = encode(IMAGES)
    assert mean.shape == log_variance.shape == (4, 2)
    assert decode(mean).shape == IMAGES.shape
    assert model("decoder", shape=[3, 2])(mean).shape == (4, 3, 2)


@pytest.mark.parametrize(("shape", "first"), [([8, 8, 1], 2), ([28, 28, 1], 7), ([7, 5, 3], 2), ([6], None)])
def test_generator_doubles_up_to_the_size_asked_for(shape: list[int], first: int | None) -> None:
    noise = RANDOM.normal(size=(3, 10)).astype("float32") * 100
    network = model("generator", shape=shape, **({"filters": [4, 3]} if first else {"hidden": [5]}))
    images = network(noise, training=True)
    assert images.shape == (3, *shape)
    assert np.abs(images).max() <= 1, "tanh"
    if first:
        assert network.get_layer("shaped").output.shape == (3, first, first if shape[1] > 5 else 2, 4)


def test_discriminator_with_spectral_normalization_is_bounded() -> None:
    keras.utils.set_random_seed(0)
    network = model("discriminator", filters=[3], hidden=[4], normalization="spectral")
    for _ in range(60):
        logits = network(IMAGES, training=True)
    assert logits.shape == (4, 1)
    bounded = [layer for layer in network.layers if isinstance(layer, keras.layers.SpectralNormalization)]
    assert len(bounded) == 3
    for layer in bounded:
        kernel = np.asarray(layer.layer.kernel)
        close(np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False).max(), 1.0, 0.01)


@pytest.mark.parametrize(("normalization", "apart"), [("batch", False), ("layer", True), ("none", True)])
def test_a_critic_judges_each_example_by_itself(normalization: str, apart: bool) -> None:
    network = model("discriminator", filters=[3, 4], hidden=[4], normalization=normalization)
    together = network(IMAGES, training=True)
    others = network(np.concatenate([IMAGES[:1], 5 * IMAGES[1:]]), training=True)
    assert np.allclose(together[0], others[0], atol=1e-6) is apart


# ── users and items ──────────────────────────────────────────────────────────────────────────────


def test_two_tower_scores_what_numpy_does() -> None:
    tower = model(
        "two_tower", ids={"user": 5, "item": 3}, item_features=["item", "tags"], dimension=2, hidden=[4], outputs="all"
    )
    tags = RANDOM.normal(size=(4, 6)).astype("float32") * (RANDOM.uniform(size=(4, 6)) < 0.4)
    x = {"user": IDS, "item": tf.constant([0, 2, 2, 1]), "tags": tf.sparse.from_dense(tags), "other": tf.zeros([4])}
    outputs = tower(x)
    table, (items, kernel) = tower.user.tables[0].numpy(), [one.numpy() for one in tower.item.tables]
    averaged = np.stack([table[row].mean(0) if row else np.zeros(2) for row in SENTENCES])

    def through(part: Any, hidden: np.ndarray) -> np.ndarray:
        (first,), last = part.hidden, part.vector
        hidden = np.maximum(hidden @ first.kernel.numpy() + first.bias.numpy(), 0)
        return hidden @ last.kernel.numpy() + last.bias.numpy()

    user = through(tower.user, averaged)
    item = through(tower.item, np.concatenate([items[[0, 2, 2, 1]], tags @ kernel], axis=1))
    close(outputs["user"], user)
    close(outputs["item"], item)
    close(outputs["score"], (user * item).sum(1, keepdims=True))
    close(tower({**x, "tags": tf.constant(tags)})["score"], outputs["score"])
    sparse_ids = tf.SparseTensor([[0, 0], [0, 3], [0, 4], [2, 1], [3, 0], [3, 4]], [1, 2, 3, 4, 0, 1], [4, 5])
    close(tower({**x, "user": sparse_ids})["user"], user)


def test_two_tower_reads_the_rows_of_the_batch_only() -> None:
    tower = model("two_tower", ids={"user": 1000, "item": 1000}, dimension=4, normalize=True, temperature=0.1)
    x = {"user": IDS, "item": tf.constant([1, 2, 3, 1])}
    with tf.GradientTape() as tape:
        score = tower(x)
    assert np.abs(score).max() <= 10.001, "a cosine over the temperature"
    gradients = tape.gradient(score, [tower.user.tables[0].value, tower.item.tables[0].value])
    assert [type(one).__name__ for one in gradients] == ["IndexedSlices"] * 2


def test_two_tower_refuses_what_it_cannot_read() -> None:
    with pytest.raises(ValueError, match="no feature 'item'"):
        model("two_tower", ids={"user": 5})({"user": tf.constant([1])})
    with pytest.raises(JobFailure, match="features of neither tower"):
        model("two_tower", ids={"usr": 5})
    with pytest.raises(ValueError, match="no known length"):
        model("two_tower", ids={"user": 5})({"user": tf.constant([1]), "item": keras.KerasTensor((None, None))})


# ── sentences ────────────────────────────────────────────────────────────────────────────────────


def test_text_classifier_averages_the_words_there_are() -> None:
    network = model("text_classifier", outputs=3, vocabulary_size=5, dimension=4)
    logits = network(IDS)
    table, last = network.embeddings.numpy(), network.logits
    last.bias.assign([1.0, 2.0, 3.0])
    means = np.stack([table[row].mean(0) if row else np.zeros(4) for row in SENTENCES])
    close(network(IDS), means @ last.kernel.numpy() + [1, 2, 3])
    close(network(tf.constant([[0, 1], [1, 2]])), network(tf.ragged.constant([[0, 1], [1, 2]])))
    assert logits.shape == (4, 3)


def test_text_classifier_with_attention_is_attention_pooling() -> None:
    network = model("text_classifier", outputs=2, vocabulary_size=5, dimension=4, pooling="attention")
    logits = network(IDS)
    pooling = build({"component": "attention_pooling", "config": {"units": 4}}, Kind.LAYER)
    words = tf.RaggedTensor.from_row_splits(tf.gather(network.embeddings.value, IDS.values), IDS.row_splits)
    pooling(words)
    pooling.set_weights([*network.scoring.get_weights(), network.context.numpy()])
    close(logits, network.logits(pooling(words)))


def test_text_classifier_takes_raw_text() -> None:
    network = model("text_classifier", outputs=2, vocabulary=["été", "good"], dimension=3)
    logits = network(tf.constant(["Good, good... ÉTÉ!", "nothing known", "", "neither"])).numpy()
    words = tf.ragged.constant([["good", "good", "été"], ["a", "b"], [], ["c"]])
    close(network(words), logits)
    close(network(tf.constant([["good good été"]]))[0], logits[0])
    close(logits[1], logits[3])
    close(logits[2], network.logits.bias.numpy())
    with pytest.raises(ValueError, match="text_classifier with vocabulary was given int64"):
        network(IDS)
    with pytest.raises(ValueError, match="integer ids, not float32"):
        model("text_classifier", outputs=2, vocabulary_size=3)(tf.ones([2, 3]))
    with pytest.raises(JobFailure, match="either vocabulary_size"):
        model("text_classifier", outputs=2)


# ── sequences ────────────────────────────────────────────────────────────────────────────────────

TRANSFORMER = {"outputs": 3, "dimension": 8, "heads": 2, "layers": 2, "max_length": 4}


@pytest.mark.parametrize("pooling", ["mean", "first", "none"])
def test_padding_changes_nothing_for_a_transformer(pooling: str) -> None:
    network = model("transformer_encoder", vocabulary_size=5, pooling=pooling, mask_id=0, **TRANSFORMER)
    rows = [[1, 2, 3], [4, 2], [2, 1]]
    ragged = tf.ragged.constant(rows, dtype=tf.int32)
    logits = network(ragged)
    close(network(ragged.to_tensor()), logits)
    mask = tf.sequence_mask(ragged.row_lengths(), 4)
    padded = tf.where(mask, ragged.to_tensor(shape=[None, 4]), 3)
    masked = network({"steps": padded, "mask": mask})
    close(masked[:, :3] if pooling == "none" else masked, logits)
    for row, one in zip(rows, logits, strict=True):
        alone = network(tf.constant([row]))[0]
        close(one[: len(row)] if pooling == "none" else one, alone)
    if pooling == "none":
        np.testing.assert_array_equal(logits[1, 2:], 0)


def test_a_transformer_knows_order_and_cuts_at_its_last_position() -> None:
    network = model("transformer_encoder", vocabulary_size=9, **TRANSFORMER)
    network(tf.constant([[1, 2]]))
    network.positions.embeddings.assign(RANDOM.normal(size=(4, 8)))
    one = network(tf.constant([[1, 2, 3, 4]]))
    assert not np.allclose(one, network(tf.constant([[2, 1, 3, 4]])))
    close(network(tf.constant([[1, 2, 3, 4, 5, 6]])), one)
    close(network(tf.ragged.constant([[1, 2, 3, 4, 8]])), one)
    assert np.isfinite(network(tf.ragged.constant([[], [1, 2]], dtype=tf.int32))).all(), "a sequence of nothing"


def test_a_transformer_of_numbers_and_what_it_refuses() -> None:
    network = model("transformer_encoder", **TRANSFORMER)
    series = RANDOM.normal(size=(5, 2)).astype("float32")
    logits = network(tf.RaggedTensor.from_row_lengths(series, [3, 2]))
    close(logits[0], network(series[np.newaxis, :3])[0])
    with pytest.raises(ValueError, match="takes numbers"):
        model("transformer_encoder", **TRANSFORMER)(IDS)
    with pytest.raises(ValueError, match="integer ids, not float32"):
        model("transformer_encoder", vocabulary_size=5, **TRANSFORMER)(tf.ones([2, 3]))
    with pytest.raises(JobFailure, match="heads must divide dimension"):
        model("transformer_encoder", **TRANSFORMER | {"heads": 3})


# ── the initializer ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [3, 4])
def test_delta_orthogonal_keeps_every_norm(size: int) -> None:
    start = build({"component": "delta_orthogonal", "config": {"gain": 2.0, "seed": 3}}, Kind.INITIALIZER)
    x = RANDOM.normal(size=(2, 8, 8, 3))
    for filters in (5, 5, 7):
        layer = keras.layers.Conv2D(filters, size, padding="same", kernel_initializer=start, dtype="float64")
        y = layer(x).numpy()
        close(np.linalg.norm(y, axis=-1), 2 * np.linalg.norm(x, axis=-1))
        assert np.count_nonzero(np.abs(layer.kernel).sum((2, 3))) == 1
        x = y


def test_delta_orthogonal_of_a_dense_kernel_and_what_it_refuses() -> None:
    start = build({"component": "delta_orthogonal"}, Kind.INITIALIZER)
    kernel = start((4, 4), dtype="float32").numpy()
    close(kernel.T @ kernel, np.eye(4))
    with pytest.raises(ValueError, match="more inputs than outputs"):
        start((3, 3, 8, 4))
    with pytest.raises(ValueError, match="rank 2"):
        start((3,))
