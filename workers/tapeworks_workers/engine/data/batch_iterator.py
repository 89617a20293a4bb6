"""The training batches: one iterator at a time, pass after pass, saved and resumed in the middle of one.

Where batches are functions of their number, one iterator runs through all passes, and the number is all that is saved.
"""

from __future__ import annotations

import errno
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from tapeworks_workers.engine.data.in_memory import Rows
from tapeworks_workers.engine.data.pipeline import Split, empty
from tapeworks_workers.engine.graph.dataset_state import hangs_once_restored

SAVED = "iterator"
"""Prefix of the iterator's files inside a checkpoint."""


@dataclass
class Cursor:
    """The number of the next batch of rows in memory; who takes batches moves it on."""

    rows: Rows
    number: int

    def __iter__(self) -> Cursor:
        return self

    def __next__(self) -> Any:
        batch = self.rows.batch(tf.constant(self.number, tf.int64))
        self.number += 1
        return batch


class BatchIterator:
    """Where training stands in its data: `number` of the pass, `position` in batches within it."""

    def __init__(self, split: Split, *, number: int = 0, position: int = 0, of_rows: bool = False) -> None:
        """`of_rows`: whoever takes the batches can gather them itself."""
        self._split = split
        self._of_rows = of_rows
        self._iterator: Any = None
        self._dataset: tf.data.Dataset | None = None
        self.number = number
        self.position = position
        self.savable = True
        """False once an iterator could not be saved: a resume then skips to its position."""

    @property
    def iterator(self) -> Any:
        """The iterator of the current pass, or of all from here on; a Cursor where rows are asked for and known."""
        if self._iterator is None:
            self._iterator = self._begun()
        return self._iterator

    def _begun(self) -> Any:
        split = self._split
        if split.stream is None or split.steps is None:
            self._dataset = dataset = split.dataset(self.number)
            return iter(dataset.skip(self.position) if self.position else dataset)
        at = self.number * split.steps + self.position
        return Cursor(split.rows, at) if self._of_rows and split.rows is not None else iter(split.stream(at))

    def advance(self, batches: int) -> None:
        """So many batches were taken."""
        self.position += batches
        if self._split.stream is not None and self._split.steps is not None:
            self.number += self.position // self._split.steps
            self.position %= self._split.steps

    def next_pass(self) -> None:
        """Leave this pass; the next batch is the first of another. Raises JobFailure where it had none."""
        if self.position == 0:
            raise empty("training")
        self._iterator = None
        self.number += 1
        self.position = 0

    def save(self, folder: Path) -> bool:
        """Write the iterator's state where it is inside a pass. False where tf.data cannot save this pipeline."""
        if self.position == 0 or not self.savable or self._split.stream is not None:
            return self.savable
        if self._dataset is not None and hangs_once_restored(self._dataset):
            self.savable = False
            return False
        try:
            tf.train.Checkpoint(iterator=self.iterator).write(str(folder / SAVED))
        except tf.errors.ResourceExhaustedError as error:
            raise OSError(errno.ENOSPC, "the position in the data could not be saved") from error
        except (tf.errors.OpError, ValueError):
            # Generators, py_function, operations with state of their own. The position is enough to go on.
            self.savable = False
            for file in folder.glob(f"{SAVED}*"):
                file.unlink() if file.is_file() else shutil.rmtree(file)
        return self.savable

    def resume(self, folder: Path) -> str:
        """Put a saved iterator's state back; where none was saved, the position is skipped to.

        Returns which: `start` of a pass, `number` where that is all there is to know, `iterator` or `skipped`.
        """
        if not self.position:
            return "start"
        if self._split.stream is not None:
            return "number"
        if not (folder / f"{SAVED}.index").exists():
            return "skipped"
        self._dataset = self._split.dataset(self.number)
        self._iterator = iter(self._dataset)
        try:
            tf.train.Checkpoint(iterator=self._iterator).read(str(folder / SAVED)).assert_consumed()
        except (tf.errors.OpError, AssertionError):
            # A state of another version of tf.data, or of a pipeline that changed: the position is still good.
            self._iterator = None
            self.savable = False
            return "skipped"
        return "iterator"
