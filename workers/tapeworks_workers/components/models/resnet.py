"""`resnet`: He et al., "Deep Residual Learning for Image Recognition" (2015), arXiv:1512.03385, section 4.2."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tapeworks import component

_EXAMPLE = {
    "config": {"outputs": 3, "widths": [2, 3], "blocks": 1},
    "inputs": tf.TensorSpec([None, 4, 4, 1], tf.float32),
}


@component("resnet", example=_EXAMPLE)
class ResNet(keras.Model):
    """The residual network for small images: a convolution, stages of blocks, the mean over the image, logits.

    Takes images `(batch, height, width, channels)` of any float dtype, height and width may be unknown; gives
    `(batch, outputs)` in the compute dtype. Each stage but the first halves height and width. It has
    `2 · blocks · len(widths) + 2` layers with weights on its longest path: the defaults are the paper's ResNet-20.

    Args:
        outputs: how many logits.
        widths: channels of each stage; None: 16, 32, 64.
        blocks: of each stage, of two convolutions each.
        activation: Keras' name.
        dropout: rate before the logits.
        kernel_regularizer: of every kernel.

    Raises ValueError for inputs of another rank or unknown channels.
    """

    def __init__(
        self,
        outputs: int,
        widths: list[int] | None = None,
        blocks: int = 3,
        activation: str = "relu",
        dropout: float = 0.0,
        kernel_regularizer: keras.regularizers.Regularizer | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        widths = [16, 32, 64] if widths is None else widths
        if not widths or blocks < 1:
            raise ValueError(f"resnet needs a stage and a block in it: widths is {widths}, blocks {blocks}")
        if blocks > 1000:
            raise ValueError(f"blocks must be at most 1000, got {blocks}: each is built and traced by itself")
        self.activation = keras.activations.get(activation)
        shared = {"kernel_regularizer": kernel_regularizer, "dtype": self.dtype_policy}
        self.stem = _convolution(widths[0], 3, 1, name="stem", **shared)
        self.normalization = keras.layers.BatchNormalization(dtype=self.dtype_policy, name="normalization")
        self.blocks = [
            _Block(width, 2 if stage and not block else 1, activation, name=f"stage_{stage + 1}_{block + 1}", **shared)
            for stage, width in enumerate(widths)
            for block in range(blocks)
        ]
        self.pooling = keras.layers.GlobalAveragePooling2D(dtype=self.dtype_policy, name="pooling")
        self.dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="dropout")
        self.logits = keras.layers.Dense(outputs, name="logits", **shared)
        self.outputs_count = outputs

    def build(self, input_shape: Any) -> None:
        shape = tuple(input_shape)
        if len(shape) != 4 or shape[-1] is None:
            raise ValueError(f"resnet takes (batch, height, width, channels), not {shape}")
        self.stem.build(shape)
        shape = self.stem.compute_output_shape(shape)
        self.normalization.build(shape)
        for block in self.blocks:
            block.build(shape)
            shape = block.compute_output_shape(shape)
        self.logits.build((shape[0], shape[-1]))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        hidden = self.activation(self.normalization(self.stem(inputs), training=training))
        for block in self.blocks:
            hidden = block(hidden, training=training)
        return self.logits(self.dropout(self.pooling(hidden), training=training))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0], self.outputs_count)


class _Block(keras.layers.Layer):
    """`activation(F(x) + x)`; where the shape changes, x goes through a convolution of size 1 (option B)."""

    def __init__(self, width: int, strides: int, activation: str, kernel_regularizer: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width, self.strides = width, strides
        self.activation = keras.activations.get(activation)
        self.kernel_regularizer = kernel_regularizer

    def build(self, input_shape: Any) -> None:
        shared = {"kernel_regularizer": self.kernel_regularizer, "dtype": self.dtype_policy}
        inner = self.compute_output_shape(input_shape)
        self.first = _convolution(self.width, 3, self.strides, name="first", **shared)
        self.second = _convolution(self.width, 3, 1, name="second", **shared)
        self.projection = None
        if self.strides != 1 or input_shape[-1] != self.width:
            self.projection = _convolution(self.width, 1, self.strides, name="projection", **shared)
        self.normalizations = []
        for convolution, shape in ((self.first, input_shape), (self.second, inner), (self.projection, input_shape)):
            if convolution is not None:
                convolution.build(shape)
                normalization = keras.layers.BatchNormalization(
                    dtype=self.dtype_policy, name=f"{convolution.name}_normalization"
                )
                normalization.build(inner)
                self.normalizations.append(normalization)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        hidden = self.activation(self.normalizations[0](self.first(inputs), training=training))
        hidden = self.normalizations[1](self.second(hidden), training=training)
        if self.projection is not None:
            inputs = self.normalizations[2](self.projection(inputs), training=training)
        return self.activation(hidden + inputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        size = [None if one is None else -(-one // self.strides) for one in input_shape[1:3]]
        return (input_shape[0], *size, self.width)


def _convolution(filters: int, size: int, strides: int, **options: Any) -> keras.layers.Layer:
    options = {"padding": "same", "use_bias": False, "kernel_initializer": "he_normal", **options}
    return keras.layers.Conv2D(filters, size, strides=strides, **options)
