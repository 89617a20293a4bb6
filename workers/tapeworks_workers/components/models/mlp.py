"""`mlp`: a multi-layer perceptron."""

from __future__ import annotations

import keras
import tensorflow as tf

from tapeworks import component


@component(
    "mlp",
    kind="model",
    example={"config": {"hidden": [8], "outputs": 3}, "inputs": tf.TensorSpec([None, 4], tf.float32)},
)
def mlp(
    hidden: list[int],
    outputs: int,
    activation: str = "relu",
    dropout: float = 0.0,
    kernel_regularizer: keras.regularizers.Regularizer | None = None,
) -> keras.Model:
    """Dense layers with an activation, then a dense one that emits logits. Inputs of any shape are flattened.

    Args:
        hidden: units of each hidden layer; may be empty.
        outputs: how many logits.
        activation: Keras' name of the hidden layers' activation.
        dropout: rate of dropout after each hidden layer; 0: none.
        kernel_regularizer: of every dense layer's kernel.
    """
    layers: list[keras.layers.Layer] = [keras.layers.Flatten(name="flatten")]
    for index, units in enumerate(hidden, start=1):
        layers.append(
            keras.layers.Dense(
                units, activation=activation, kernel_regularizer=kernel_regularizer, name=f"hidden_{index}"
            )
        )
        if dropout:
            layers.append(keras.layers.Dropout(dropout, name=f"dropout_{index}"))
    layers.append(keras.layers.Dense(outputs, kernel_regularizer=kernel_regularizer, name="logits"))
    return keras.Sequential(layers, name="mlp")
