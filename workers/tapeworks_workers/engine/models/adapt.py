"""Preprocessing layers that learn from the training split before their model is built.

What reaches a layer is the part of its model in front of it, applied to the role's inputs: a sequential model is run
layer by layer, a graph up to the node, any other model until it calls the layer. In a job that is resumed or
certified nothing is learned again: what was learned is put back (`outside.py`; Normalization's are variables).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure
from tapeworks.spec.job_spec import Adapt
from tapeworks_workers.engine.diagnostics.error_text import text
from tapeworks_workers.engine.models import layer_state
from tapeworks_workers.engine.models.layer_paths import layers_by_path, listed

Front = Callable[[Any], Any]
"""From a role's inputs (eager tensors) to what reaches a layer."""


def adaptable(layer: Any) -> bool:
    """Whether a layer learns by `adapt`."""
    return callable(getattr(layer, "adapt", None))


def unadapted(layer: Any) -> bool:
    """Whether one of Keras' layers was given nothing and has learned nothing: it would compute nonsense or fail."""
    if isinstance(layer, keras.layers.TextVectorization):
        layer = layer._lookup_layer
    if isinstance(layer, keras.layers.StringLookup | keras.layers.IntegerLookup):
        return layer.input_vocabulary is None and layer.vocabulary_size() <= layer._token_start_index()
    if isinstance(layer, keras.layers.Discretization):
        return layer.bin_boundaries is None
    # One that was adapted is told apart by the caller: constant data may leave its variables as they were.
    if isinstance(layer, keras.layers.Normalization):
        return layer.input_mean is None
    return bool(getattr(layer, "unlearned", False))


class LayerAdapter:
    """The layers of one model that are to be prepared before it is built."""

    def __init__(
        self,
        model: Any,
        adapts: Sequence[Adapt],
        *,
        stored: Callable[[str], Mapping[str, np.ndarray]],
        restoring: bool,
        batches: Callable[[], Iterator[Any]],
        pointer: str,
        columns: Callable[[], Sequence[str] | None] = lambda: None,
    ) -> None:
        """`stored(path)`: what a layer knew outside its variables; `batches()`: the role's inputs, batch by batch.
        `columns`: the names of the features of a vector x."""
        self._pointer = pointer
        self._columns = columns
        self._batches = batches
        self._paths = layers_by_path(model)
        self._restoring = restoring
        self._wanted = self._resolved(adapts)
        self._stored = {
            path: values
            for path, layer in self._paths
            if adaptable(layer) and (restoring or path not in self._wanted) and (values := stored(path))
        }
        self.learned: set[str] = set()
        """Paths of what has learned, or was put back."""

    def _resolved(self, adapts: Sequence[Adapt]) -> dict[str, Adapt]:
        """Path → adapt, of paths and of names that only one layer has."""
        wanted: dict[str, Adapt] = {}
        for index, adapt in enumerate(adapts):
            found = [p for p, _ in self._paths if p == adapt.layer]
            found = found or [p for p, _ in self._paths if p.endswith("/" + adapt.layer)]
            if len(found) != 1:
                those = [path for path, layer in self._paths if adaptable(layer)]
                what = f"names {len(found)} layers: {listed(found)}" if found else "is not a layer of the model"
                raise JobFailure(
                    FailureCode.INVALID_SPEC,
                    f"{self._pointer}/adapt/{index}/layer: {adapt.layer!r} {what}; those that adapt: {listed(those)}",
                    hint="Give the layer a `name` in its config, and name it by its path from the model: inner/text.",
                )
            wanted[found[0]] = adapt
        return wanted

    @property
    def prepared(self) -> set[str]:
        """Paths of all that learns, or is put back."""
        return {*self._wanted, *self._stored}

    @property
    def concerned(self) -> bool:
        """Whether the model has layers that adapt.

        Where and when a layer is built shows in the names of its variables, so what is done here goes by the spec
        alone: a job that resumes must find the names with which it began.
        """
        return any(adaptable(layer) for _, layer in self._paths)

    def reach(self, path: str, layer: keras.Layer, front: Front, inputs: Any) -> None:
        """Prepare a layer, and those inside it, before it is first called.

        `front` gives what reaches it, `inputs` are the symbolic tensors that it is going to be called with.
        """
        if path in self._stored:
            layer_state.write(layer, self._stored[path])
            self.learned.add(path)
        elif path in self._wanted:
            self._learn(path, layer, front, inputs)
        elif not adaptable(layer):
            self.inside(layer, front, inputs, prefix=f"{path}/")

    def inside(self, model: keras.Layer, front: Front, inputs: Any, *, prefix: str = "") -> None:
        """Prepare the layers inside a model, which is built on the way where it is not."""
        inner = [(path, layer) for path, layer in self._paths if path.startswith(prefix)]
        if not any(adaptable(layer) for _, layer in inner):
            return
        if type(model) is keras.Sequential and not model.built:
            for layer in model.layers:
                self.reach(prefix + layer.name, layer, front, inputs)
                # Built by symbolic inputs, so that no layer takes this batch's size for its own.
                inputs, front = layer(inputs), _then(front, layer)
            return
        for path, layer in inner:
            if path in self._stored:
                layer_state.write(layer, self._stored[path])
                self.learned.add(path)
        if not model.built:
            model(inputs)
        for path, layer in inner:
            if path in self._wanted and path not in self.learned:
                self._learn(path, layer, _until(model, layer, front, path=path))

    def _learn(self, path: str, layer: Any, front: Front, inputs: Any = None) -> None:
        adapt = self._wanted[path]
        self.learned.add(path)
        if self._restoring:
            return
        place = f"{self._pointer}/adapt: the layer {path!r}"
        if not adaptable(layer):
            raise JobFailure(FailureCode.INVALID_SPEC, f"{place} ({type(layer).__name__}) has no adapt method")
        if getattr(layer, "output_mode", getattr(layer, "_output_mode", None)) == "tf_idf":
            raise JobFailure(
                FailureCode.NOT_SUPPORTED,
                f"{place} has output_mode tf_idf, whose weights Keras cannot load from a file again",
                hint='Use output_mode "multi_hot" or "count", or give vocabulary and idf_weights in its config.',
            )
        seen = 0

        def reaching() -> Iterator[Any]:
            nonlocal seen
            for x in itertools.islice(self._batches(), adapt.take):
                seen += 1
                yield front(x)

        try:
            _adapt(layer, reaching())
        except JobFailure:
            raise
        except Exception as error:
            if seen == 0:
                raise _nothing(place) from error
            if hasattr(error, "without_values"):
                raise _without_values(place, self._names(error.without_values, inputs)) from error
            raise JobFailure(
                FailureCode.COMPONENT_ERROR, f"{place} could not be adapted: {type(error).__name__}: {text(error)}"
            ) from error
        if seen == 0:
            raise _nothing(place)
        if not _finite(layer):
            raise JobFailure(
                FailureCode.INVALID_DATA,
                f"{place} ({type(layer).__name__}) learned NaN: missing values or infinities reach it",
                hint='Put the layer "fill_missing" before it, or {"op": "drop_missing"} into data.pipeline.',
            )

    def _names(self, features: Sequence[int] | None, inputs: Any) -> str:
        """Columns by name, where an input of the model or the source has one."""
        if features is None:
            return f"column {inputs.name!r}" if isinstance(inputs, keras.KerasTensor) else "the column"
        width = inputs.shape[-1] if isinstance(inputs, keras.KerasTensor) else None
        known = next((one for one in (_stacked(inputs), self._columns()) if one and len(one) == width), None)
        named = [str(feature) if known is None else repr(known[feature]) for feature in features]
        return f"{'feature' if known is None else 'column'}{'s' * (len(named) > 1)} {listed(named)}"


def _adapt(layer: Any, batches: Iterator[Any]) -> None:
    """Keras casts what a Normalization learns from to its compute dtype: in a mixed precision, to half of one."""
    if not isinstance(layer, keras.layers.Normalization):
        layer.adapt(batches)
        return
    policy = layer.dtype_policy
    layer.dtype_policy = keras.DTypePolicy(layer.variable_dtype)
    try:
        layer.adapt(batches)
    finally:
        layer.dtype_policy = policy
    layer.finalize_state()


def _stacked(tensor: Any) -> list[str]:
    """The names of the single columns that a layer put side by side; [] where it took something else."""
    if not isinstance(tensor, keras.KerasTensor) or not hasattr(tensor, "_keras_history"):
        return []
    operation, node, _ = tensor._keras_history
    given = operation._inbound_nodes[node].input_tensors
    return [one.name for one in given] if all(len(one.shape) == 1 for one in given) else []


def _finite(layer: Any) -> bool:
    """Whether what one of Keras' layers learned are numbers."""
    if isinstance(layer, keras.layers.Normalization):
        return bool(np.isfinite(layer.mean).all() and np.isfinite(layer.variance).all())
    if isinstance(layer, keras.layers.Discretization):
        return bool(np.isfinite(np.asarray(layer.bin_boundaries, np.float64)).all())
    return True


def _without_values(place: str, names: str) -> JobFailure:
    return JobFailure(
        FailureCode.INVALID_DATA,
        f"{place}: {names} is missing in every row of the training split that reaches it",
        hint='Leave such a column out of the features, or fill it with {"strategy": "constant", "value": 0}.',
    )


def _nothing(place: str) -> JobFailure:
    return JobFailure(FailureCode.INVALID_DATA, f"{place}: no batch of the training split reaches it")


def _then(front: Front, layer: keras.Layer) -> Front:
    return lambda x: _call(layer, front(x))


def _call(layer: Any, x: Any) -> Any:
    training = {"training": False} if getattr(layer, "_call_has_training_arg", False) else {}
    return layer(x, **training)


def _until(model: Any, layer: keras.Layer, front: Front, *, path: str) -> Front:
    """Runs a model until it calls the layer, eagerly, and gives what the layer was called with."""

    def run(x: Any) -> Any:
        inputs = front(x)
        reached: list[tuple[Any, Any]] = []
        with _stop_at(layer, reached):
            try:
                _call(model, inputs)
            except Exception:
                if not reached:
                    raise
        if not reached:
            raise JobFailure(FailureCode.INVALID_SPEC, f"adapt: the model never calls its layer {path!r}")
        args, kwargs = reached[0]
        tensors = [*args, *(value for name, value in kwargs.items() if name not in ("training", "mask"))]
        if len(tensors) != 1:
            raise JobFailure(
                FailureCode.INVALID_SPEC, f"adapt: the layer {path!r} is called with {len(tensors)} tensors"
            )
        return tensors[0]

    return run


class _Reached(Exception):
    """The layer was called: what comes behind it need not run."""


@contextmanager
def _stop_at(layer: keras.Layer, reached: list[Any]) -> Iterator[None]:
    call = keras.Operation.__call__  # where every layer's call passes; derived classes may hold Layer.__call__ itself

    def watched(self: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        if self is layer and not any(
            isinstance(leaf, keras.KerasTensor) or tf.is_symbolic_tensor(leaf)
            for leaf in tf.nest.flatten(args, expand_composites=True)
        ):
            reached.append((args, kwargs))
            raise _Reached
        return call(self, *args, **kwargs)

    keras.Operation.__call__ = watched
    try:
        yield
    finally:
        keras.Operation.__call__ = call
