"""Subclassed models with the hooks that `fit` calls; their arguments are plain values."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tapeworks import component


@component("differential/Net")
class Net(keras.Model):
    """Dense layers, then a head for each output; outputs as `structure` says."""

    def __init__(
        self,
        widths: list[int],
        names: list[str],
        activations: list[str | None],
        structure: str = "one",
        hidden: int = 6,
        penalty: float = 0.0,
        normalize: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.widths, self.names, self.activations = list(widths), list(names), list(activations)
        self.structure, self.hidden, self.penalty, self.normalize = structure, hidden, penalty, normalize
        start = keras.initializers.GlorotUniform
        self.first = keras.layers.Dense(hidden, "tanh", kernel_initializer=start(1))
        self.normalization = keras.layers.BatchNormalization() if normalize else None
        self.heads = [
            keras.layers.Dense(width, activation, kernel_initializer=start(2 + index), name=f"head_{index}")
            for index, (width, activation) in enumerate(zip(widths, activations, strict=True))
        ]
        self.prepare()

    def prepare(self) -> None:
        """What a subclass adds."""

    def call(self, inputs: Any, training: bool = False) -> Any:
        flat = keras.tree.flatten(inputs)
        x = self.first(ops.concatenate(flat, axis=-1) if len(flat) > 1 else flat[0])
        if self.normalization is not None:
            x = self.normalization(x, training=training)
        if self.penalty:
            self.add_loss(self.penalty * ops.mean(ops.square(ops.cast(x, "float32"))))
        outputs = [head(x) for head in self.heads]
        if self.structure == "one":
            return outputs[0]
        if self.structure == "dict":
            return dict(zip(self.names, outputs, strict=True))
        return tuple(outputs) if self.structure == "tuple" else outputs

    def get_config(self) -> dict[str, Any]:
        names = ("widths", "names", "activations", "structure", "hidden", "penalty", "normalize")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@component("differential/OwnLoss")
class OwnLoss(Net):
    """Overrides `compute_loss`."""

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        return 0.5 * loss + ops.cast(0.1 * ops.mean(ops.square(keras.tree.flatten(y_pred)[0])), loss.dtype)


@component("differential/OwnMetrics")
class OwnMetrics(Net):
    """Overrides `compute_metrics`, and holds a metric that it updates there."""

    def prepare(self) -> None:
        self.tracker = keras.metrics.Mean(name="size")

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        self.tracker.update_state(ops.mean(ops.abs(keras.tree.flatten(y_pred)[0])))
        return {**super().compute_metrics(x, y, y_pred, sample_weight), "twice": 2 * self.tracker.result()}


@component("differential/Tracked")
class Tracked(Net):
    """Holds a metric that `call` updates."""

    def prepare(self) -> None:
        self.tracker = keras.metrics.Mean(name="activity")

    def call(self, inputs: Any, training: bool = False) -> Any:
        outputs = super().call(inputs, training)
        self.tracker.update_state(ops.mean(ops.abs(keras.tree.flatten(outputs)[0])))
        return outputs


HOOKS = ("Net", "OwnLoss", "OwnMetrics", "Tracked")
