"""Checkpoints of a training: when one is due, and one at a time on its way to disk while training goes on.

What must belong to the moment is copied at once: the values, and the place in the data. Writing, syncing and renaming
go on beside the next steps; a checkpoint is announced at the first call boundary after it is there.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor

from tapeworks.errors import FailureCode
from tapeworks.spec.job_spec import CheckpointSpec
from tapeworks_workers.engine.checkpoints.files import CheckpointFiles
from tapeworks_workers.engine.checkpoints.snapshot import Snapshot
from tapeworks_workers.engine.data.batch_iterator import BatchIterator
from tapeworks_workers.engine.reporting import Reporter
from tapeworks_workers.safe_files import NO_SPACE


class CheckpointWriter:
    """The checkpoints of one training."""

    def __init__(self, wanted: CheckpointSpec | None, files: CheckpointFiles, reporter: Reporter) -> None:
        self._wanted, self._files, self._reporter = wanted, files, reporter
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: tuple[Future[str], Snapshot, bool] | None = None
        self._saved_at = time.monotonic()
        self._full = False
        """Whether the last one found no room."""

    def begin(self) -> None:
        """The time to the first one counts from now."""
        self._saved_at = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether the spec asks for one after this step, at this time."""
        wanted = self._wanted
        if wanted is None:
            return False
        by_steps = wanted.every_steps is not None and step % wanted.every_steps == 0
        return by_steps or (
            wanted.every_seconds is not None and time.monotonic() - self._saved_at >= wanted.every_seconds
        )

    def save(self, state: Snapshot, feed: BatchIterator, *, best: bool) -> None:
        """Begin to write this moment, once the one before is there."""
        self.settle(wait=True)
        savable = feed.savable
        self._saved_at = time.monotonic()
        step = state.counters["step"]
        try:
            finish = self._files.begin(state, step=step, best=best, extra=feed.save)
        except OSError as error:
            self._left_out(step, error)
            return
        self._writing = self._writer.submit(finish), state, best
        if savable and not feed.savable:
            self._reporter.note(
                "The position in the data cannot be saved for this pipeline: a resumed attempt skips to it, "
                "and what its random operations give then may differ."
            )

    def settle(self, *, wait: bool) -> None:
        """Announce the one that was being written, if it is there; `wait` until it is."""
        if self._writing is None or not (wait or self._writing[0].done()):
            return
        (writing, state, best), self._writing = self._writing, None
        counters = state.counters
        try:
            path = writing.result()
        except OSError as error:
            self._left_out(counters["step"], error)
            return
        self._full = False
        metrics = {name: value for name, value in counters["logs"].items() if math.isfinite(value)}
        self._reporter.checkpoint(path, step=counters["step"], epoch=counters["epoch"], metrics=metrics, best=best)

    def _left_out(self, step: int, error: OSError) -> None:
        """A checkpoint found no room: training goes on, and says so once. Raises what is not the disk's fault."""
        if error.errno not in NO_SPACE:
            raise error
        if not self._full:
            self._reporter.diagnostic(
                FailureCode.STORAGE_FULL,
                f"the checkpoint of step {step} was left out: {error.strerror}",
                hint="Training continues. The next checkpoint is written when there is space.",
            )
        self._full = True
