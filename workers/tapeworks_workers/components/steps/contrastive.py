"""`contrastive`: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations" (2020),
arXiv:2002.05709.

Two views by one network's own dropout: Gao et al., "SimCSE" (2021), arXiv:2104.08821.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tapeworks import Run, TrainingStep, component

VIEWS = frozenset(("first", "second"))


@component("contrastive")
class Contrastive(TrainingStep):
    """Two views of every example through an encoder and a projection head, under one optimizer, `encoder`.

    The element is `x` or `(x, …)`, of which `x` alone is used. Where x is `{"first": …, "second": …}` these are the
    views, made by the pipeline. Otherwise x is encoded twice, and the encoder makes the views: it begins with random
    layers (RandomTranslation, GaussianNoise, Dropout, …), which act in training only, so that the exported encoder
    takes x as it is.

    The loss of the role `projection` (`nt_xent`) is called with the projections of both views, `(2n, d)`, and labels
    that are equal for the two views of an example; what layers add in the second view's call is added. So are the
    projection's metrics. Reports `loss`. Validation calls both models as in inference: an encoder that makes its own
    views gives the same twice there, and the loss tells only how far examples lie apart.

    Only the encoder is exported unless the spec says otherwise: the projection serves the loss alone.
    """

    models = ("encoder", "projection")
    optimizers = {"encoder": ("encoder", "projection")}  # noqa: RUF012  # a declaration, read as it stands
    losses = ("projection",)
    exported = ("encoder",)

    def input_spec(self, role: str, element: Any, models: Any) -> Any:
        view, _ = _views(element)
        if role == "encoder":
            return view
        symbolic = tf.nest.map_structure(lambda spec: keras.KerasTensor(spec.shape, spec.dtype.name), view)
        encoded = models["encoder"](symbolic)
        return tf.TensorSpec(encoded.shape, encoded.dtype)

    def train_step(self, batch: Any, run: Run) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            loss = _loss(batch, run, training=True)
        run.minimize("encoder", loss, tape)
        return {"loss": loss}

    def validation_step(self, batch: Any, run: Run) -> dict[str, Any]:
        return {"loss": _loss(batch, run, training=False)}


def _loss(batch: Any, run: Run, *, training: bool) -> Any:
    encoder, projection = run.models["encoder"], run.models["projection"]
    projected = [projection(encoder(view, training=training), training=training) for view in _views(batch)]
    regularization = run.regularization("encoder") + run.regularization("projection")
    outputs, examples = tf.concat(projected, axis=0), tf.range(tf.shape(projected[0])[0], dtype=tf.int64)
    labels = tf.concat([examples, examples], axis=0)
    run.update_metrics("projection", labels, outputs)
    loss = run.losses["projection"](labels, outputs)
    return loss + tf.cast(regularization, loss.dtype)


def _views(element: Any) -> tuple[Any, Any]:
    x = element[0] if isinstance(element, tuple) else element
    given = isinstance(x, dict) and x.keys() == VIEWS
    return (x["first"], x["second"]) if given else (x, x)
