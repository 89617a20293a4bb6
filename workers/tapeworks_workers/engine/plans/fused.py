"""`fused`: n stacked batches in one XLA program, with nothing between their steps but the state.

Only batches of the full size are stacked; any other, such as a short last one, is trained on by itself as `steps`
would. Which is which does not depend on where a call begins, so a resumed attempt rounds as one that never stopped.
"""

from __future__ import annotations

import functools
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.engine.data.batch_iterator import Cursor
from tapeworks_workers.engine.data.pipeline import Split
from tapeworks_workers.engine.graph.element_spec import named_leaves
from tapeworks_workers.engine.step.compiled_step import CompiledStep, compile_train_step
from tapeworks_workers.engine.step.step_metrics import StepMetrics

STACK_BYTES = 16 * 1024 * 1024
MOST_STACKED = 128


class CannotCompile(JobFailure):
    """XLA refuses the step, as the message says; the batches that were taken are trained on, `done` of them."""

    def __init__(self, why: str, done: int) -> None:
        super().__init__(FailureCode.NOT_SUPPORTED, f"XLA cannot compile the step: {why}", hint='Use the plan "auto".')
        self.done = done


Taken = tuple[Any, list[tf.Tensor], list[tf.Tensor]]
"""How many full batches came; their leaves, stacked; the leaves of a batch of another size, empty where none came."""


class FusedPlan:
    """Takes up to n batches, then trains on all of them in one call; the next ones are taken meanwhile."""

    name = kept = "fused"
    gathers = True

    def __init__(self, step: CompiledStep, split: Split, means: StepMetrics, *, most: int = MOST_STACKED) -> None:
        """`most`: batches that are stacked at most."""
        rows, batch_size = split.rows, split.batch_size
        self._step, self._means = step, means
        self._one = self._stacked_one = step.on_device
        self._spec = step.element_spec
        self._full = [
            tf.TensorSpec([batch_size, *spec.shape[1:]], spec.dtype) for spec in tf.nest.flatten(step.element_spec)
        ]
        each = sum(spec.shape.num_elements() * spec.dtype.size for spec in self._full)
        # No more than is ever asked for at once: what is gathered beyond it is thrown away.
        bounds = [most, MOST_STACKED, step.assembly.spec.training.report_every_steps, STACK_BYTES // max(1, each)]
        self._most = max(1, min([*bounds, rows.full] if rows is not None else bounds))
        self._thread = ThreadPoolExecutor(1, "batches")
        self._take = tf.function(self._taken, autograph=False)
        self._rows = rows
        self._compiled = False
        self._of_one_size = False
        """Whether the step was traced again for full batches alone."""
        self._refused: str | None = None
        self._results: tf.Tensor | None = None
        """What the last program of a run ended with, where nothing was trained on since."""
        self._ahead: tuple[int, Future[list[tf.Tensor]]] | None = None
        """The number of a batch, and the stack that begins with it."""
        # Concrete, as all that is called between steps: finding the trace costs a call as much as a small step.
        self._gather = functools.cache(self._traced_gather)
        self._train = functools.cache(self._traced_train)

    def run(self, batches: Any, steps: int) -> int:
        """See `Plan.run`. Raises CannotCompile, at the first call that is more than a batch of another size."""
        self._results = None
        rows = isinstance(batches, Cursor)
        done = self._run_rows(batches, steps) if rows else self._run_iterator(batches, steps)
        self._means.moved(self._results)
        return done

    def _run_rows(self, cursor: Cursor, steps: int) -> int:
        rows, done = cursor.rows, 0
        while done < steps:
            left = rows.full - cursor.number % rows.steps
            taken = min(self._most, steps - done, max(left, 1))
            stacked = self._gathered_at(cursor.number).result() if left > 0 else None
            number = cursor.number
            cursor.number += taken
            if self._compiled:  # where the next call goes on, too
                apart = cursor.number % rows.steps >= rows.full
                self._gathered_at(cursor.number + apart)
            if stacked is None:
                self._train_apart(rows.batch(tf.constant(number, tf.int64)))
            else:
                self._train_on(stacked, taken)
            done += taken
            if self._refused is not None:
                raise CannotCompile(self._refused, done)
        return done

    def _gathered_at(self, number: int) -> Future[list[tf.Tensor]]:
        """The full batches from a number on, gathered beside what is trained; one stack is kept ahead."""
        if self._ahead is None or self._ahead[0] != number:
            self._ahead = number, self._thread.submit(self._gather(), tf.constant(number, tf.int64))
        return self._ahead[1]

    def _run_iterator(self, batches: Any, steps: int) -> int:
        done = 0
        taking = self._begin(batches, steps)
        while True:
            full, stacked, other = taking.result()
            taken, apart = int(full), len(other[0]) > 0
            ended = taken < min(self._most, steps - done) and not apart
            compiled = self._compiled
            if more := compiled and done + taken + apart < steps and not ended:
                taking = self._begin(batches, steps - done - taken - apart)
            if taken:
                self._train_on(stacked, taken)
            if apart:
                self._train_apart(tf.nest.pack_sequence_as(self._spec, other))
            done += taken + apart
            if self._refused is not None:
                raise CannotCompile(self._refused, done)
            if ended or done >= steps:
                return done
            if not more:
                taking = self._begin(batches, steps - done)

    def _train_on(self, stacked: list[tf.Tensor], taken: int) -> None:
        """One XLA program; where the first cannot be compiled, which changes nothing, the batches one by one."""
        try:
            self._results = self._train()(*stacked, tf.constant(taken))
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError, tf.errors.InternalError) as error:
            if self._compiled:
                raise
            if self._traced_for_one_size():
                self._train_on(stacked, taken)
                return
            self._refused = str(error).partition("\n")[0][:500]
            for at in range(taken):
                self._train_apart(tf.nest.pack_sequence_as(self._spec, [leaves[at] for leaves in stacked]))
        self._compiled = True

    def _train_apart(self, batch: Any) -> None:
        self._one(batch)
        self._results = None

    def _traced_for_one_size(self) -> bool:
        """Trace the step again where every shape is known, once: gradients of a loop (an LSTM's) compile only then."""
        if self._of_one_size:
            return False
        self._of_one_size = True
        full = tf.nest.pack_sequence_as(self._spec, self._full)
        try:
            self._stacked_one = compile_train_step(self._step.assembly, element_spec=full).on_device
        except JobFailure:  # what was traced before goes on
            return False
        self._train = functools.cache(self._traced_train)
        return True

    def _begin(self, batches: Any, steps: int) -> Future[Taken]:
        return self._thread.submit(self._take, batches, tf.constant(min(self._most, steps)))

    # ── rows in memory ───────────────────────────────────────────────────────────────────────────

    def _traced_gather(self) -> Any:
        return tf.function(self._gathered, autograph=False).get_concrete_function(tf.TensorSpec([], tf.int64))

    def _gathered(self, number: tf.Tensor) -> list[tf.Tensor]:
        assert self._rows is not None  # noqa: S101 — there is a Cursor of them
        return list(tf.nest.flatten(self._rows.stacked(number, self._most)))

    # ── batches of a dataset ─────────────────────────────────────────────────────────────────────

    def _taken(self, iterator: Any, wanted: tf.Tensor) -> Taken:
        def more(taken: tf.Tensor, go_on: tf.Tensor, *_: Any) -> tf.Tensor:
            return go_on & (taken < wanted)

        def one(taken: tf.Tensor, _: tf.Tensor, arrays: Any, other: Any) -> Any:
            batch = iterator.get_next_as_optional()
            stop = (taken, tf.constant(False), arrays, other)
            return tf.cond(batch.has_value(), lambda: self._put(batch.get_value(), taken, arrays, other), lambda: stop)

        # TensorFlow may run what writes a batch before it knows that the batch is not full: any size must go in.
        arrays = [tf.TensorArray(spec.dtype, self._most, element_shape=[None, *spec.shape[1:]]) for spec in self._full]
        nothing = [tf.zeros([0, *spec.shape[1:]], spec.dtype) for spec in self._full]
        shapes = [tf.TensorShape([None, *spec.shape[1:]]) for spec in self._full]
        scalar = tf.TensorShape([])
        taken, _, arrays, other = tf.while_loop(
            more,
            one,
            (tf.constant(0), tf.constant(True), arrays, nothing),
            (scalar, scalar, [tf.TensorShape(None)] * len(arrays), shapes),
        )
        return taken, [_stacked(array, spec) for array, spec in zip(arrays, self._full, strict=True)], other

    def _put(self, batch: Any, taken: tf.Tensor, arrays: Any, other: Any) -> Any:
        """Stack a full batch, or set another one apart."""
        leaves = list(zip(tf.nest.flatten(batch), self._full, strict=True))

        def stack() -> Any:
            written = [array.write(taken, leaf) for array, (leaf, _) in zip(arrays, leaves, strict=True)]
            return taken + 1, tf.constant(True), written, other

        def set_apart() -> Any:
            return taken, tf.constant(False), arrays, [leaf for leaf, _ in leaves]

        return tf.cond(tf.reduce_all([tf.shape(leaf)[0] == spec.shape[0] for leaf, spec in leaves]), stack, set_apart)

    # ── training ─────────────────────────────────────────────────────────────────────────────────

    def _traced_train(self) -> Any:
        stacked = [tf.TensorSpec([self._most, *spec.shape], spec.dtype) for spec in self._full]
        compiled = tf.function(self._trained, autograph=False, jit_compile=True)
        return compiled.get_concrete_function(*stacked, tf.TensorSpec([], tf.int32))

    def _trained(self, *given: tf.Tensor) -> tf.Tensor | None:
        *stacked, steps = given

        def one(done: tf.Tensor) -> tf.Tensor:
            self._stacked_one(tf.nest.pack_sequence_as(self._spec, [leaves[done] for leaves in stacked]))
            return done + 1

        tf.while_loop(lambda done: done < steps, one, (tf.constant(0),))
        return None if self._of_one_size else self._means.to_vector()  # the second attempt is the plainest


def _stacked(array: tf.TensorArray, full: tf.TensorSpec) -> tf.Tensor:
    """The batches that were written, and zeros for the rest."""
    return tf.raw_ops.TensorListStack(input_handle=array.flow, element_shape=full.shape, element_dtype=full.dtype)


def why_not(split: Split) -> str | None:
    """Why full batches have no one shape that XLA can hold; None where they have."""
    for path, spec in named_leaves(split.element_spec):
        if not isinstance(spec, tf.TensorSpec):
            return f"{path} is {'ragged' if isinstance(spec, tf.RaggedTensorSpec) else 'sparse'}"
        if spec.dtype == tf.string:
            return f"{path} is text"
        if spec.shape.rank is None or not spec.shape[1:].is_fully_defined():
            return f"the shape of {path} differs from batch to batch: {spec.shape}"
    return "the size of a batch is not known" if split.batch_size is None else None
