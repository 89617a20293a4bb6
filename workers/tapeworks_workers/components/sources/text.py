"""`text`: text files in any encoding, labelled by their folders."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal

import tensorflow as tf

from tapeworks import Files, component
from tapeworks_workers.components.sources import text_encoding
from tapeworks_workers.components.sources.labelled_files import LabelledFiles
from tapeworks_workers.components.sources.text_encoding import BrokenText, TextFile

_FILES_AT_ONCE = 4


@component("text")
class Text(LabelledFiles):
    """Texts, one a line or one a file: x a string of UTF-8, y int64, the folder's number.

    Lines of several files are read in turns, in the same order each pass; empty lines are left out. A byte order mark
    is no part of a text. Files of another encoding than UTF-8 are read one whole file at a time.

    Args:
        files: a glob, or several, below a data root: `reviews/*/*.txt`.
        per: "line" or "file": what one element is.
        labels: "folder", or null: elements are x alone.
        classes: folder names in the order of their numbers; default: those of the training split, in order of name.
        encoding: of all files, by Python's names: "utf-8", "latin-1", "cp1252", "utf-16".
        on_error: of a file that is not in the encoding: "fail" ends the job, "skip" leaves it out and reports it.
        max_skipped: files that "skip" may leave out; more end the job.
    """

    name = "text"

    def __init__(
        self,
        files: Files,
        per: Literal["line", "file"] = "line",
        labels: Literal["folder"] | None = None,
        classes: list[str] | None = None,
        encoding: str = "utf-8",
        on_error: Literal["fail", "skip"] = "fail",
        max_skipped: int = 100,
    ) -> None:
        self.paths = [Path(path) for path in files]
        self.per = per
        self.labels = labels
        self.classes = classes
        self.encoding = text_encoding.codec(encoding)
        self.on_error = on_error
        self.max_skipped = max_skipped

    def dataset(self) -> tf.data.Dataset:
        found: list[TextFile] = self._examined[0]
        paths = [file.path for file in found]
        labels = self._numbers(paths) if self.labels else tf.zeros(len(paths), tf.int64)
        files = tf.data.Dataset.from_tensor_slices(([str(path) for path in paths], labels))
        if self.per == "file":
            return files.map(self._whole, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        marked = any(file.marked for file in found)
        return files.interleave(
            functools.partial(self._lines, marked),
            cycle_length=min(_FILES_AT_ONCE, len(paths)),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )

    @tf.autograph.experimental.do_not_convert
    def _whole(self, path: tf.Tensor, label: tf.Tensor) -> Any:
        text = text_encoding.whole(path, self.encoding)
        return (text, label) if self.labels else text

    @tf.autograph.experimental.do_not_convert
    def _lines(self, marked: bool, path: tf.Tensor, label: tf.Tensor) -> tf.data.Dataset:
        lines = text_encoding.lines(path, self.encoding, marked).filter(_not_empty)
        return tf.data.Dataset.zip(lines, tf.data.Dataset.from_tensors(label).repeat()) if self.labels else lines

    def _examine(self, path: Path) -> TextFile:
        return text_encoding.examine(path, self.encoding)

    def _tried(self, path: Path) -> TextFile | str:
        try:
            return self._examine(path)
        except BrokenText as error:
            return str(error)


@tf.autograph.experimental.do_not_convert
def _not_empty(line: tf.Tensor) -> tf.Tensor:
    return tf.strings.length(tf.strings.strip(line)) > 0
