"""The devices of a job: how many, their copies of the models' variables, and a step run on all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tapeworks_workers.engine.devices import batch_rows
from tapeworks_workers.engine.devices.replica import Meeting, Replica
from tapeworks_workers.engine.graph.autograph import engine_code
from tapeworks_workers.engine.graph.keras_private import (
    adopt_thread_state,
    losses_by_thread,
    losses_of_replicas_unscaled,
    thread_state,
)


class Devices:
    """`names` of logical devices, the first of which holds the assembly. One, the default, has nothing to do."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.names = list(names)
        self._strategy = _strategy(self.names) if len(self.names) > 1 else None
        self._copies: list[dict[int, tf.Variable]] = [{} for _ in self.names[1:]]
        self._originals: dict[int, keras.Variable] = {}
        self._layers: list[Any] = []
        self._normalizations: list[Any] = []
        self._alone = False
        self._renew: Any = None

    @property
    def several(self) -> bool:
        """Whether a step runs on more than one device."""
        return self._strategy is not None and not self._alone

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Steps that are traced in the block run on the first device only."""
        before, self._alone = self._alone, True
        try:
            yield
        finally:
            self._alone = before

    # ── variables ────────────────────────────────────────────────────────────────────────────────

    def hold(self, models: Iterable[keras.Model], others: Iterable[keras.Variable] = ()) -> None:
        """Make copies of the variables of these models, and of others that their layers may assign."""
        if self._strategy is None:
            return
        models = list(models)
        for variable in [*(one for model in models for one in model.variables), *others]:
            if id(variable) in self._originals:
                continue
            self._originals[id(variable)] = variable
            for name, copies in zip(self.names[1:], self._copies, strict=True):
                with tf.device(name):
                    copies[id(variable)] = tf.Variable(variable.value, trainable=variable.trainable, name="copy")
        self._layers = [layer for model in models for layer in model._flatten_layers()]
        self._normalizations = [one for one in self._layers if isinstance(one, keras.layers.BatchNormalization)]

    def variables(self) -> list[tf.Variable]:
        """The copies: no state of the training."""
        return [variable for copies in self._copies for variable in copies.values()]

    def copy(self, variables: Iterable[keras.Variable]) -> None:
        """Renew the copies of these variables; part of a step, or outside of one."""
        for variable in variables:
            for copies in self._copies:
                if id(variable) in copies:
                    copies[id(variable)].assign(self._originals[id(variable)].value)

    def renew(self) -> None:
        """Renew all copies, between two calls of a plan: whatever else changes variables may have done so."""
        if self._strategy is None:
            return
        if self._renew is None:
            self._renew = tf.function(lambda: self.copy(self._originals.values()), autograph=False)
        self._renew()

    # ── a step ───────────────────────────────────────────────────────────────────────────────────

    def run(self, function: Callable[[Any], Any], batch: Any) -> list[tuple[Replica, Any]]:
        """Trace a function for each device on its rows of the batch: what each returned. Part of a graph."""
        assert self._strategy is not None  # noqa: S101
        with tf.device("CPU:0"):  # where batches come from: a device gets its own rows only
            parts = batch_rows.cut(batch, len(self.names))
        meeting = Meeting(tf.compat.v1.get_default_graph(), [])
        results: list[Any] = [None] * len(parts)
        state = thread_state()
        originals = {key: variable.value for key, variable in self._originals.items()}
        meeting.replicas = [
            Replica(rows, meeting, copies) for (_, rows), copies in zip(parts, [originals, *self._copies], strict=True)
        ]

        @engine_code
        def replica() -> None:
            index = int(tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group))
            adopt_thread_state(state)
            with meeting.replicas[index].traced():
                results[index] = function(parts[index][0])

        with self._synchronized(), losses_of_replicas_unscaled(), losses_by_thread(self._layers):
            self._strategy.run(replica)
        # What layers assign (moving averages, seeds) is what the first replica assigned: copies never part.
        assigned = meeting.replicas[0].variables.assigned
        self.copy(variable for key, variable in self._originals.items() if key in assigned)
        return list(zip(meeting.replicas, results, strict=True))

    @contextlib.contextmanager
    def _synchronized(self) -> Iterator[None]:
        """Batches are normalized over all their rows: each replica has only some. The layers' configs stay."""
        before = [(layer, layer.synchronized) for layer in self._normalizations]
        for layer, _ in before:
            layer.synchronized = True
        try:
            yield
        finally:
            for layer, value in before:
                layer.synchronized = value


def _strategy(names: Sequence[str]) -> tf.distribute.Strategy:
    """Sums over GPUs by NCCL; over CPU devices on the first one: TensorFlow's default, a ring of collective operations,
    mixes up those that one step runs at a time."""
    on_gpus = all("GPU" in name for name in names)
    sums = tf.distribute.NcclAllReduce() if on_gpus else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(list(names), cross_device_ops=sums)
