"""`pretrained`: the model of an earlier job, whole or up to a layer."""

from __future__ import annotations

from typing import Any

import keras

from tapeworks import EarlierJob, component


@component("pretrained", kind="model")
def pretrained(
    from_: EarlierJob, role: str | None = None, until: str | None = None, trainable: bool = True
) -> keras.Model:
    """A trained model as a role of its own (a frozen teacher), or as a layer of another (a base under a new head).

    Args:
        from_: the job, in the spec as `from`.
        role: which of its models; may be left out where it has one.
        until: the name of the last layer to keep; the model then gives what that layer gave.
        trainable: false freezes it, batch normalisation included.
    """
    job: Any = from_
    model: keras.Model = job.model(role)
    if until is not None:
        try:
            last = job.layer(model, until)
        except ValueError as error:
            raise ValueError(f"until: {error}") from error
        if not getattr(model, "inputs", None):
            raise ValueError(f"until is {until!r}, and the model is subclassed: it has no part up to a layer")
        taken = model.inputs if isinstance(model, keras.Sequential) else model.input
        model = keras.Model(taken, last.output, name=model.name)
    if not trainable and isinstance(model, keras.Sequential):
        for layer in model.layers:  # Keras 3.15 forgets a Sequential's own flag when it is loaded again
            layer.trainable = False
    elif not trainable:
        model.trainable = False
    return model
