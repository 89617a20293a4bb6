"""Architectures of the kinds that model libraries hold, written as such libraries write them, and small.

Most build themselves functionally in `__init__` (`super().__init__(inputs=…, outputs=…)`).
"""

from typing import Any

import keras
import tensorflow as tf
from keras import layers

from tapeworks import component

TOKENS = {"token_ids": tf.TensorSpec([None, 6], tf.int32), "padding_mask": tf.TensorSpec([None, 6], tf.int32)}
IMAGE = tf.TensorSpec([None, 16, 16, 3], tf.float32)


@component("zoo/PositionEmbedding")
class PositionEmbedding(layers.Layer):
    """A learned vector for each position."""

    def __init__(self, length: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.length = length

    def build(self, shape: Any) -> None:
        self.positions = self.add_weight(shape=(self.length, shape[-1]), initializer="glorot_uniform")

    def call(self, x: Any) -> Any:
        return x + self.positions[: keras.ops.shape(x)[1]]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "length": self.length}


@component("zoo/TransformerBlock")
class TransformerBlock(layers.Layer):
    """Attention and a dense part, whose layers are made in `__init__` and built in `build`."""

    def __init__(self, heads: int, width: int, *, causal: bool = False, dropout: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.causal = causal
        self.attention = layers.MultiHeadAttention(heads, width // heads, dropout=dropout, name="attention")
        self.norms = [layers.LayerNormalization(epsilon=1e-5, name=f"norm_{i}") for i in range(2)]
        self.dense = {"up": layers.Dense(2 * width, activation="gelu", name="up"), "down": layers.Dense(width)}

    def build(self, shape: Any) -> None:
        self.attention.build(shape, shape)
        for norm in self.norms:
            norm.build(shape)
        self.dense["up"].build(shape)
        self.dense["down"].build(self.dense["up"].compute_output_shape(shape))

    def call(self, x: Any, padding_mask: Any = None, training: bool | None = None) -> Any:
        mask = None if padding_mask is None else keras.ops.cast(padding_mask, "bool")[:, None, :]
        attended = self.attention(x, x, attention_mask=mask, use_causal_mask=self.causal, training=training)
        x = self.norms[0](x + attended)
        return self.norms[1](x + self.dense["down"](self.dense["up"](x)))


@component("zoo/BertBackbone", example={"inputs": TOKENS})
class BertBackbone(keras.Model):
    """An encoder with dict inputs and outputs, and a tied projection kept as an attribute."""

    def __init__(self, vocabulary: int = 30, width: int = 8, blocks: int = 2, **kwargs: Any) -> None:
        ids = keras.Input((None,), dtype="int32", name="token_ids")
        mask = keras.Input((None,), dtype="int32", name="padding_mask")
        self.embedding = layers.ReversibleEmbedding(vocabulary, width, name="embedding")
        x = PositionEmbedding(6, name="positions")(self.embedding(ids))
        x = layers.LayerNormalization(name="norm")(x)
        for index in range(blocks):
            x = TransformerBlock(2, width, name=f"block_{index}")(x, padding_mask=mask)
        pooled = layers.Dense(width, activation="tanh", name="pooled")(x[:, 0])
        super().__init__(
            inputs={"token_ids": ids, "padding_mask": mask},
            outputs={"sequence_output": x, "pooled_output": pooled},
            **kwargs,
        )
        self.vocabulary, self.width, self.blocks = vocabulary, width, blocks

    def get_config(self) -> dict[str, Any]:
        own = {"vocabulary": self.vocabulary, "width": self.width, "blocks": self.blocks}
        return {**super().get_config(), **own}


@component("zoo/TextClassifier", example={"inputs": TOKENS})
class TextClassifier(keras.Model):
    """A task: a backbone that it is given, and a head."""

    def __init__(self, backbone: keras.Model | None = None, classes: int = 3, **kwargs: Any) -> None:
        backbone = BertBackbone(name="backbone") if backbone is None else backbone
        x = layers.Dropout(0.1, name="dropout")(backbone(backbone.input)["pooled_output"])
        outputs = layers.Dense(classes, name="logits")(x)
        super().__init__(inputs=backbone.input, outputs=outputs, **kwargs)
        self.backbone = backbone


@component("zoo/CausalLM", example={"inputs": tf.TensorSpec([None, 6], tf.int32)})
class CausalLM(keras.Model):
    """A decoder whose output projection is the embedding, reversed."""

    def __init__(self, vocabulary: int = 30, width: int = 8, blocks: int = 2, **kwargs: Any) -> None:
        ids = keras.Input((None,), dtype="int32", name="token_ids")
        embedding = layers.ReversibleEmbedding(vocabulary, width, tie_weights=True, name="embedding")
        x = PositionEmbedding(6, name="positions")(embedding(ids))
        for index in range(blocks):
            x = TransformerBlock(2, width, causal=True, name=f"block_{index}")(x)
        super().__init__(inputs=ids, outputs=embedding(x, reverse=True), **kwargs)


@component("zoo/ViT", example={"inputs": IMAGE})
class ViT(keras.Model):
    """Patches, a class token that is a variable of a nested layer, encoder blocks."""

    def __init__(self, patch: int = 4, width: int = 8, blocks: int = 1, classes: int = 3, **kwargs: Any) -> None:
        image = keras.Input((16, 16, 3), name="image")
        x = layers.Rescaling(2.0, offset=-1.0, name="rescaling")(image)
        x = layers.Conv2D(width, patch, strides=patch, name="patches")(x)
        x = layers.Reshape((-1, width), name="tokens")(x)
        x = PositionEmbedding((16 // patch) ** 2 + 1, name="positions")(ClassToken(name="class_token")(x))
        for index in range(blocks):
            x = TransformerBlock(2, width, name=f"block_{index}")(x)
        x = layers.LayerNormalization(name="norm")(x)
        super().__init__(inputs=image, outputs=layers.Dense(classes, name="logits")(x[:, 0]), **kwargs)


@component("zoo/ClassToken")
class ClassToken(layers.Layer):
    """A learned token in front of a sequence."""

    def build(self, shape: Any) -> None:
        self.token = self.add_weight(shape=(1, 1, shape[-1]), initializer="zeros", name="token")

    def call(self, x: Any) -> Any:
        return keras.ops.concatenate([keras.ops.repeat(self.token, keras.ops.shape(x)[0], axis=0), x], axis=1)


@component("zoo/ResNet", example={"inputs": IMAGE})
class ResNet(keras.Model):
    """Pre-activation residual blocks, from lists of arguments."""

    def __init__(
        self, filters: list[int] | None = None, blocks: list[int] | None = None, classes: int = 3, **kwargs: Any
    ) -> None:
        filters, blocks = filters or [4, 8], blocks or [1, 2]
        image = keras.Input((None, None, 3), name="image")
        x = layers.Conv2D(filters[0], 3, padding="same", use_bias=False, name="stem")(image)
        for stage, (width, depth) in enumerate(zip(filters, blocks, strict=True)):
            for block in range(depth):
                x = self._block(x, width, 2 if stage and not block else 1, f"stage{stage}_block{block}")
        x = layers.GlobalAveragePooling2D(name="pooled")(layers.BatchNormalization(name="norm")(x))
        super().__init__(inputs=image, outputs=layers.Dense(classes, name="logits")(x), **kwargs)

    def _block(self, x: Any, width: int, stride: int, name: str) -> Any:
        active = layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_norm")(x))
        shortcut = layers.Conv2D(width, 1, strides=stride, name=f"{name}_shortcut")(active)
        return shortcut + layers.Conv2D(width, 3, strides=stride, padding="same", name=f"{name}_conv")(active)


@component("zoo/UNet", example={"inputs": {"latents": IMAGE, "timestep": tf.TensorSpec([None, 1], tf.float32)}})
class UNet(keras.Model):
    """The denoiser of a diffusion model: an image and a time, skips between stages, nested functional models."""

    def __init__(self, widths: tuple[int, ...] = (4, 8), **kwargs: Any) -> None:
        latents, time = keras.Input((16, 16, 3), name="latents"), keras.Input((1,), name="timestep")
        moment = layers.Dense(widths[-1], activation="silu", name="time")(keras.ops.sin(time * 3.0))
        x, skips = layers.Conv2D(widths[0], 3, padding="same", name="in")(latents), []
        for index, width in enumerate(widths):
            x = Denoising(width, name=f"down_{index}")([x, moment])
            skips.append(x)
            x = layers.AveragePooling2D(2, name=f"pool_{index}")(x)
        for index, width in reversed(list(enumerate(widths))):
            x = layers.UpSampling2D(name=f"up_{index}")(x)
            x = Denoising(width, name=f"back_{index}")(
                [layers.Concatenate(name=f"skip_{index}")([x, skips[index]]), moment]
            )
        outputs = layers.Conv2D(3, 3, padding="same", kernel_initializer="zeros", name="out")(x)
        super().__init__(inputs={"latents": latents, "timestep": time}, outputs=outputs, **kwargs)


@component("zoo/Denoising")
class Denoising(layers.Layer):
    """Takes a list; its own layers are built by their first call."""

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norm = layers.GroupNormalization(1)
        self.conv, self.time = layers.Conv2D(width, 3, padding="same"), layers.Dense(width)

    def call(self, inputs: Any) -> Any:
        x, moment = inputs
        return keras.ops.silu(self.norm(self.conv(x) + self.time(moment)[:, None, None, :]))


@component("zoo/MobileNet", example={"inputs": IMAGE})
class MobileNet(keras.Sequential):
    """A Sequential subclass with squeeze-and-excite blocks."""

    def __init__(self, widths: list[int] | None = None, classes: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for index, width in enumerate(widths or [4, 6]):
            self.add(layers.SeparableConv2D(width, 3, strides=2, padding="same", name=f"conv_{index}"))
            self.add(layers.BatchNormalization(name=f"norm_{index}"))
            self.add(SqueezeExcite(name=f"squeeze_{index}"))
        self.add(layers.GlobalAveragePooling2D(name="pooled"))
        self.add(layers.Dense(classes, name="logits"))


@component("zoo/SqueezeExcite")
class SqueezeExcite(layers.Layer):
    """Makes its layers in `build`, a Sequential of them."""

    def build(self, shape: Any) -> None:
        width = shape[-1]
        self.gate = keras.Sequential([layers.Dense(2, activation="relu"), layers.Dense(width, activation="sigmoid")])
        self.gate.build((None, width))

    def call(self, x: Any) -> Any:
        return x * self.gate(keras.ops.mean(x, axis=(1, 2)))[:, None, None, :]
