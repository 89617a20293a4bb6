"""One replica of a step while it is traced: what it computes for itself, and where it meets the others.

`current()` is the replica that this thread traces, None on one device and wherever replicas have met. A meeting is a
`merge_call` of tf.distribute: every replica's thread waits, then one function runs for all of them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.engine.devices import batch_rows
from tapeworks_workers.engine.graph import replica_rows
from tapeworks_workers.engine.graph.replica_rows import Rows
from tapeworks_workers.engine.graph.tensorflow_private import one_device

_LOCAL = threading.local()


@dataclass
class Meeting:
    """What the replicas of one traced step share."""

    graph: Any
    replicas: list[Replica]
    brought: list[Any] = field(default_factory=list)
    result: Any = None


class Variables(keras.StatelessScope):
    """Inside the block Keras' variables are this replica's copies, and assignments go to these."""

    def __init__(self, copies: Mapping[int, tf.Variable]) -> None:
        super().__init__(collect_losses=True, initialize_variables=False)
        self.state_mapping = dict(copies)
        self.assigned: set[int] = set()

    def add_update(self, update: tuple[Any, Any]) -> None:
        """What `Variable.assign` calls."""
        variable, value = update
        copy = self.state_mapping.get(id(variable))
        self.assigned.add(id(variable))
        (variable._value if copy is None else copy).assign(value)


class Replica:
    """The replica with some rows of the global batch."""

    def __init__(self, rows: Rows, meeting: Meeting, copies: Mapping[int, tf.Variable]) -> None:
        self.rows = rows
        self.index = rows.index
        self.variables = Variables(copies)
        self._meeting = meeting

    @contextlib.contextmanager
    def traced(self) -> Iterator[None]:
        """This thread traces the replica in the block."""
        _LOCAL.replica = self
        try:
            with replica_rows.of(self.rows), self.variables:
                yield
        finally:
            _LOCAL.replica = None

    # ── meetings ─────────────────────────────────────────────────────────────────────────────────

    def once(self, what: str, function: Callable[[], Any]) -> Any:
        """The function of the first replica, run once for all; every replica gets what it returns.

        `what`: the call that a step makes, for messages. Raises JobFailure `not_supported` inside a branch or a loop.
        """
        return self.met(what, None, lambda _: function())

    def gathered(self, what: str, values: Any, function: Callable[[Any], Any]) -> Any:
        """`function` run once on the values of all replicas, put together in the order of the rows."""
        return self.met(what, values, lambda parts: function(batch_rows.joined(parts)))

    def met(self, what: str, value: Any, function: Callable[[list[Any]], Any]) -> Any:
        """`function` of the first replica, run once on the list of what each replica brought."""
        self._check(what)
        meeting = self._meeting
        if self.index == 0:
            meeting.brought = []
        meeting.brought.append(value)

        def merged(strategy: Any) -> None:
            with one_device():
                meeting.result = function(meeting.brought)

        tf.distribute.get_replica_context().merge_call(merged)
        return meeting.result

    def _check(self, what: str) -> None:
        if tf.compat.v1.get_default_graph() is not self._meeting.graph:
            raise JobFailure(
                FailureCode.NOT_SUPPORTED,
                f"{what} is called inside a branch, a loop or a tf.function of the step, where several devices cannot "
                "meet",
                hint="Call it in the step itself: give run.minimize or run.apply the condition as when=…, and leave "
                "tf.function out; or set resources.gpus to 1.",
            )

    # ── arithmetic ───────────────────────────────────────────────────────────────────────────────

    def seeds(self, loss: Any, seeds: Any = None) -> Any:
        """What the gradients of a loss, the mean of this replica's rows, are multiplied with on their way back.

        Not afterwards: what layers sum over the replicas (synchronized BatchNormalization) needs it there.
        """
        seeds = tf.nest.map_structure(tf.ones_like, loss) if seeds is None else seeds
        return tf.nest.map_structure(lambda one: one * tf.cast(self.rows.share, one.dtype), seeds)

    def summed(self, gradients: Sequence[Any]) -> list[Any]:
        """The gradients summed over the replicas, the same on all; None where the loss misses a variable.

        tf.IndexedSlices are put together in the order of the rows.
        """
        self._check("run.gradients")
        missed = self.met("run.gradients", [one is None for one in gradients], list)
        if any(one != missed[0] for one in missed):
            raise JobFailure(
                FailureCode.NOT_SUPPORTED,
                "the loss reaches other variables on one device than on another",
                hint="Call the model outside of a tf.function of your own, or set resources.gpus to 1.",
            )
        given = [index for index, one in enumerate(gradients) if one is not None]
        result = list(gradients)
        if given:
            own = [self._of_rows(gradients[index]) for index in given]
            reduced = tf.distribute.get_replica_context().all_reduce("SUM", own)
            for index, one in zip(given, reduced, strict=True):
                result[index] = one
        return result

    def _of_rows(self, gradient: Any) -> Any:
        """0 where the replica has no rows: the mean of nothing is no number."""
        if isinstance(gradient, tf.IndexedSlices):
            return tf.IndexedSlices(self._of_rows(gradient.values), gradient.indices, gradient.dense_shape)
        gradient = tf.convert_to_tensor(gradient)
        return tf.where(self.rows.count > 0, gradient, tf.zeros_like(gradient))

    def finite(self, value: tf.Tensor) -> tf.Tensor:
        """The value, 0 where the replica has no rows."""
        return tf.where(self.rows.count > 0, value, tf.zeros_like(value))

    def means(self, what: str, values: Sequence[tf.Tensor], function: Callable[[list[tf.Tensor]], Any]) -> Any:
        """`function` run once on the means over the global batch of scalars that are means over the replicas' rows."""
        brought = [(self.rows, one) for one in values]

        def merged(parts: list[Any]) -> Any:
            return function([mean(column) for column in zip(*parts, strict=True)])

        return self.met(what, brought, merged)

    def agreed(self, when: tf.Tensor) -> tf.Tensor:
        """A condition of the step, which must not differ between replicas that have rows: a bool scalar."""

        def merged(parts: list[tuple[Rows, tf.Tensor]]) -> tf.Tensor:
            first = parts[0][1]
            same = [(rows.count == 0) | (one == first) for rows, one in parts]
            tf.debugging.Assert(
                tf.reduce_all(same),
                ["when= of run.apply is another value on one device than on another: compute it from what all share"],
            )
            return first

        return self.met("run.apply", (self.rows, when), merged)

    def random(self, draw: Callable[[Any], tf.Tensor], shape: Any) -> tf.Tensor:
        """What a stream draws next for the global batch: this replica's rows of it, or, where the shape is no batch's,
        the same for all. The stream moves on once."""
        shape = tf.convert_to_tensor(shape, tf.int32)
        if not replica_rows.spans_batch(shape):
            return self.once("run.random_*", lambda: draw(shape))

        def merged(parts: list[tuple[Rows, tf.Tensor]]) -> tuple[tf.Tensor, tf.Tensor]:
            rows, first = parts[0]
            wide, each = replica_rows.widened(first[0], rows.count, rows.total)
            tf.debugging.Assert(
                each > 0, ["run.random_* on several devices: the first dimension is no multiple of the batch's size"]
            )
            return draw(tf.concat([wide[None], first[1:]], 0)), each

        drawn, each = self.met("run.random_*", (self.rows, shape), merged)
        start = each * self.rows.start
        taken: tf.Tensor = drawn[start : start + each * self.rows.count]
        return taken


def mean(parts: Sequence[tuple[Rows, tf.Tensor]]) -> tf.Tensor:
    """The mean over the global batch of means over the rows of each replica; of the value's dtype where it is one of
    floats, else float64."""
    dtype = parts[0][1].dtype if parts[0][1].dtype.is_floating else tf.float64
    weighed = [
        tf.where(rows.count > 0, tf.cast(value, tf.float64) * rows.share, tf.zeros([], tf.float64))
        for rows, value in parts
    ]
    return tf.cast(tf.add_n(weighed), dtype)


def current() -> Replica | None:
    """The replica that this thread traces; None on one device, and where the replicas have met."""
    return getattr(_LOCAL, "replica", None)


def once(what: str, function: Callable[[], Any]) -> Any:
    """`Replica.once`, or on one device the function's value."""
    replica = current()
    return function() if replica is None else replica.once(what, function)
