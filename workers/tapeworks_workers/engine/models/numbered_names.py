"""Globs of a spec that name a layer by the number that Keras gave it: which layer that is, said before training.

`dense_2` is the third Dense that the process made, in whatever role: a user who counts in a notebook may mean another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

import keras

from tapeworks.spec.job_spec import JobSpec
from tapeworks_workers.engine.diagnostics.retracing import Note
from tapeworks_workers.engine.factory.earlier_jobs import Inputs
from tapeworks_workers.engine.factory.weight_matching import Names
from tapeworks_workers.engine.models.layer_paths import layers_by_path

CODE = "numbered_name"
_HINT = (
    "Give the layer a `name` in its config and use that: Keras' numbers change with every layer that is made before, "
    "those of other roles included."
)


def numbered_names(spec: JobSpec, models: Mapping[str, keras.Model], inputs: Inputs) -> list[Note]:
    """A note for each name in the spec that only a number of Keras' makes out."""
    notes = [Note(CODE, f"{pointer}: {what}", _HINT) for pointer, what in inputs.numbered]
    for pointer, role, glob in _globs(spec):
        layers = layers_by_path(models[role])
        names = Names.of(layer for _, layer in layers)
        for position, (path, layer) in enumerate(layers, start=1):
            found = fnmatchcase(path, glob) or path.endswith(f"/{glob}")
            if found and _by_number(glob) and any(map(names.invented, path.split("/"))):
                shapes = ", ".join(str(list(weight.shape)) for weight in layer.weights) or "none"
                which = f"layer {position} of {len(layers)} of role {role!r} ({type(layer).__name__}, weights {shapes})"
                message = f"{pointer}: {glob!r} is a name that Keras numbered: {path!r} is {which}"
                notes.append(Note(CODE, message, _HINT))
    return notes


def _by_number(glob: str) -> bool:
    return re.search(r"[*?\[]", glob) is None or re.search(r"_\d", glob) is not None


def _globs(spec: JobSpec) -> Iterator[tuple[str, str, str]]:
    """(pointer, role, glob or path)."""
    for role, model in spec.models.items():
        for index, glob in enumerate(model.freeze):
            yield f"/models/{role}/freeze/{index}", role, glob
        for index, adapt in enumerate(model.adapt):
            yield f"/models/{role}/adapt/{index}/layer", role, adapt.layer
        layers = model.initial_state.layers if model.initial_state is not None else None
        for index, glob in enumerate(layers or []):
            yield f"/models/{role}/initial_state/layers/{index}", role, glob
    for index, evaluator in enumerate(spec.evaluators):
        config = evaluator.config  # frechet_distance takes features up to a layer of a role
        features, until = config.get("features"), config.get("until")
        if isinstance(features, str) and features in spec.models and isinstance(until, str):
            yield f"/evaluators/{index}/config/until", features, until
    for name, optimizer in spec.optimizers.items():
        for index, selection in enumerate(optimizer.variables or []):
            for number, glob in enumerate(selection.layers or []):
                yield f"/optimizers/{name}/variables/{index}/layers/{number}", selection.model, glob
