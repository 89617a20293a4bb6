"""What the models of a job start from: state of earlier jobs, other roles' weights; and which layers stay as they are.

    Start                 given to `assemble`: the data to adapt to, what a checkpoint holds, the inputs
    initialise(…)         after all models are built: `initial_state`, then `copy_of`
    freeze(…)             after that
    continued(…)          `restore: all`, as a snapshot that training resumes from

Of an attempt that resumes, or of verifier B, nothing here is done again: its values are about to be restored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure
from tapeworks.spec.job_spec import JobSpec, TrainingSpec
from tapeworks_workers.engine.checkpoints.snapshot import EXTRA, Snapshot, read_values
from tapeworks_workers.engine.factory.earlier_jobs import Inputs
from tapeworks_workers.engine.models import layer_state
from tapeworks_workers.engine.models.adapt import adaptable
from tapeworks_workers.engine.models.initial_weights import MODELS as _MODELS
from tapeworks_workers.engine.models.initial_weights import Source, Taken, layer_there, take
from tapeworks_workers.engine.models.layer_paths import layers_by_path, matching


@dataclass
class InitialState:
    """What `assemble` builds from, beside the spec."""

    training: Callable[[], tf.data.Dataset] | None = None
    """The training split that layers adapt to."""
    columns: Callable[[], Sequence[str] | None] = lambda: None
    """The names of the features of x, where the source makes a vector of columns."""
    restored: Mapping[str, np.ndarray] | None = None
    """What the state that will be restored holds outside variables; None: nothing will be."""
    inputs: Inputs = field(default_factory=Inputs)
    _states: dict[str, Snapshot] = field(default_factory=dict)

    def state(self, name: str, *, pointer: str) -> Snapshot:
        """The values of an earlier job. Raises JobFailure."""
        if name not in self._states:
            self._states[name] = read_values(self.inputs.state_folder(name, pointer=pointer))
        return self._states[name]

    def outside(self, spec: JobSpec, role: str, path: str, layers: Sequence[tuple[str, Any]]) -> dict[str, np.ndarray]:
        """What a layer of a role begins with outside its variables: restored, or of the job's initial state.

        `layers`: (path, layer) of the whole model, for those whose names Keras numbered.
        """
        if self.restored is not None:
            return layer_state.of_layer(self.restored, role, path)
        for source in _sources(spec, role):
            values = self.state(source.name, pointer=source.pointer).values
            of = source.role_in(values, role)
            if of is not None and source.takes(path):
                at = layer_there(path, layers, layer_state.layers_of(values, of), source)
                return {} if at is None else layer_state.of_layer(values, of, at)
        return {}

    def begins_with(self, spec: JobSpec, role: str, path: str) -> bool:
        """Whether an initial state covers a layer, so that it need not learn."""
        for source in _sources(spec, role):
            values = self.state(source.name, pointer=source.pointer).values
            if source.role_in(values, role) is not None and source.takes(path):
                return True
        return False


def _sources(spec: JobSpec, role: str) -> list[Source]:
    """The role's own initial state first, then the job's; a copy begins with those of the role that it copies."""
    model = spec.models[role]
    if model.copy_of is not None:
        return _sources(spec, model.copy_of)
    found = []
    if model.initial_state is not None:
        found.append(Source(model.initial_state.from_, f"/models/{role}/initial_state", model.initial_state))
    if spec.training.initial_state is not None:
        found.append(Source(spec.training.initial_state.from_, "/training/initial_state", None))
    return found


# ── weights ──────────────────────────────────────────────────────────────────────────────────────


def initialise(
    spec: JobSpec, models: Mapping[str, keras.Model], start: InitialState, adapted: Mapping[str, set[str]]
) -> list[Taken]:
    """Assign earlier weights; `adapted`: role → layers that keep what they learned. Returns what was matched to what.

    Raises JobFailure.
    """
    if start.restored is not None:
        _put_back(models, start.restored)
        return []
    taken: list[Taken] = []
    for role, model in models.items():
        if spec.models[role].copy_of is not None:
            continue
        for source in reversed(_sources(spec, role)):
            values = start.state(source.name, pointer=source.pointer).values
            of = source.role_in(values, role)
            if of is not None:
                taken.append(take(model, values, of, source, keep=adapted.get(role, set())))
                layer_state.finalize(model)
    for role, model in models.items():
        origin = spec.models[role].copy_of
        if origin is not None:
            _copy(models[origin], model, f"/models/{role}/copy_of")
    return taken


def _put_back(models: Mapping[str, keras.Model], values: Mapping[str, np.ndarray]) -> None:
    """What adapted layers learned in variables, now: a trace would keep the constants that they make from them."""
    for role, model in models.items():
        learned = {id(v) for _, layer in layers_by_path(model) if adaptable(layer) for v in layer.variables}
        for index, variable in enumerate(model.variables):
            value = values.get(f"{_MODELS}{role}/{index}/{variable.path}")
            if id(variable) in learned and value is not None and value.shape == tuple(variable.shape):
                variable.assign(value)
        layer_state.finalize(model)


def _copy(origin: keras.Model, copy: keras.Model, pointer: str) -> None:
    """One component and config gives one structure, whatever numbers Keras puts into the names."""
    if len(origin.weights) != len(copy.weights):
        raise JobFailure(
            FailureCode.INVALID_SPEC,
            f"{pointer}: the copy has {len(copy.weights)} weights, the other role has {len(origin.weights)}",
            hint="The component must build the same layers each time from the same config.",
        )
    for source, target in zip(origin.weights, copy.weights, strict=True):
        if tuple(source.shape) != tuple(target.shape):
            raise JobFailure(
                FailureCode.INVALID_SPEC,
                f"{pointer}: {target.path!r} is {list(target.shape)}, the other role's is {list(source.shape)}",
            )
        target.assign(source)
    layer_state.finalize(copy)


def freeze(spec: JobSpec, models: Mapping[str, keras.Model]) -> None:
    """Freeze what `freeze` names, as Keras does with `trainable = False`. Raises JobFailure."""
    for role, model in models.items():
        for path, layer in matching(model, spec.models[role].freeze, pointer=f"/models/{role}/freeze"):
            if path:  # the model itself would not come back frozen from its config
                layer.trainable = False


# ── all of it ────────────────────────────────────────────────────────────────────────────────────


def continued(source: Snapshot, current: Snapshot, training: TrainingSpec, *, name: str) -> Snapshot:
    """The snapshot from which `restore: all` goes on: a whole epoch of this job's data begins.

    Models, optimizers, transforms, the step's variables and random streams are the source's; metrics begin anew.
    `current`: this job's own, for what the source need not have. Raises JobFailure `invalid_spec`.
    """
    done = source.counters
    step, epoch = int(done.get("step", 0)), int(done.get("epoch", 0))
    for key, bound, reached in (("epochs", training.epochs, epoch), ("max_steps", training.max_steps, step)):
        if bound and reached >= bound:
            raise JobFailure(
                FailureCode.INVALID_SPEC,
                f"/training/{key}: {name!r} has done {reached}, so {bound} leave no training steps",
                hint="With restore: all, epochs and max_steps count from the start of the earlier job.",
            )
    own = {key: value for key, value in current.values.items() if _of_an_epoch(key)}
    values = {key: value for key, value in source.values.items() if not _of_an_epoch(key)}
    lacking = sorted(current.values.keys() ^ {**own, **values}.keys())
    unfit = [key for key in values if key in current.values and values[key].shape != current.values[key].shape]
    if lacking or unfit:
        what = f"{lacking[0]!r} is on one side only" if lacking else f"{unfit[0]!r} has another shape"
        raise JobFailure(
            FailureCode.INVALID_SPEC,
            f"/training/initial_state: {name!r} does not match the state of this job: {what}",
            hint='Restore "all" takes the same models, optimizers and step; "weights" takes only weights.',
        )
    # In the middle of a pass it is not known what of another job's data was seen: the next pass begins.
    number = int(done.get("pass_number", 0)) + (1 if done.get("position") else 0)
    moved = {"step": step, "epoch": epoch, "pass_number": number}
    return Snapshot({**own, **values}, {**current.counters, **moved})


def _of_an_epoch(name: str) -> bool:
    return name.startswith(("metrics/", EXTRA)) or name == "run/means"
