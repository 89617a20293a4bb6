"""`images` and `text`: files whose class is the name of their folder.

The folder's name counts, not the path above it: `flowers/daisy/1.png` is a daisy. Classes are numbered in order of
name unless `classes` says otherwise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import keras
import tensorflow as tf

from tapeworks import Files, Source, component, errors
from tapeworks_workers.components.sources.unpacked_size import check_pixels

_FILES_AT_ONCE = 4
_IMAGE_HEADS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM")
"""PNG, JPEG, GIF, BMP: what tf.io.decode_image reads."""


@component("images")
class Images(Source):
    """Pictures (PNG, JPEG, BMP, the first frame of a GIF): x `(height, width, channels)`, y int64, the folder's number.

    Pictures are decoded while the job runs, several at a time, in the same order each pass.

    Args:
        files: a glob, or several, below a data root: `flowers/*/*.png`.
        size: height and width to resize to (bilinear, antialiased); null: the files all have one size.
        channels: 1 grey, 3 colour, 4 with transparency.
        labels: "folder", or null: elements are x alone.
        classes: folder names in the order of their numbers; default: those found, in order of name.
        scale: floats from 0 to 1; false: from 0 to 255.
    """

    def __init__(
        self,
        files: Files,
        size: tuple[int, int] | None = None,
        channels: Literal[1, 3, 4] = 3,
        labels: Literal["folder"] | None = "folder",
        classes: list[str] | None = None,
        scale: bool = True,
    ) -> None:
        if size is not None and min(size) < 1:
            raise ValueError(f"size is the height and width in pixels, not {size}")
        self.paths = [Path(path) for path in files]
        self.size = size
        self.channels = channels
        self.labels = labels
        self.classes = classes
        self.scale = scale

    def files(self) -> list[Path]:
        return self.paths

    def dataset(self) -> tf.data.Dataset:
        for path in self.paths:
            with path.open("rb") as file:
                if not file.read(8).startswith(_IMAGE_HEADS):
                    raise _invalid("images", f"{path.parent.name}/{path.name} is no PNG, JPEG, GIF or BMP")
            check_pixels(path)
        size = self.size or self.size_of(self.paths[0])
        dataset = tf.data.Dataset.from_tensor_slices([str(path) for path in self.paths]).map(
            lambda path: self._image(path, size), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        if self.labels is None:
            return dataset
        labels = _labels("images", self.paths, self.classes)
        return tf.data.Dataset.zip(dataset, tf.data.Dataset.from_tensor_slices(labels))

    @tf.autograph.experimental.do_not_convert
    def _image(self, path: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
        image = self._decoded(path)
        if self.size is not None:
            image = tf.clip_by_value(tf.image.resize(image, size, antialias=True), 0.0, 255.0)
        # Without resizing an image of another size ends the job here, and not where nobody knows which it was.
        name = tf.strings.regex_replace(path, ".*/", "")
        told = tf.strings.join([b"invalid data: ", name, b" has another size than the first: give size"])
        same = tf.reduce_all(tf.shape(image)[:2] == tf.constant(size))
        with tf.control_dependencies([tf.debugging.Assert(same, [told])]):
            image = tf.cast(image, keras.config.floatx())
        return tf.ensure_shape(image / 255 if self.scale else image, [*size, self.channels])

    def _decoded(self, path: tf.Tensor) -> tf.Tensor:
        return tf.io.decode_image(tf.io.read_file(path), channels=self.channels, expand_animations=False)

    def size_of(self, path: Path) -> tuple[int, int]:
        """Height and width of a picture. Raises JobFailure where it cannot be decoded."""
        check_pixels(path)
        try:
            height, width, _ = self._decoded(str(path)).shape
        except tf.errors.OpError as error:
            raise _invalid("images", f"{path.parent.name}/{path.name} cannot be decoded: {error.message}") from error
        return int(height), int(width)


@component("text")
class Text(Source):
    """Texts, one a line or one a file: x a string, y int64, the folder's number. Files are UTF-8.

    Lines of several files are read in turns, in the same order each pass; empty lines are left out.

    Args:
        files: a glob, or several, below a data root: `reviews/*/*.txt`.
        per: "line" or "file": what one element is.
        labels: "folder", or null: elements are x alone.
        classes: folder names in the order of their numbers; default: those found, in order of name.
    """

    def __init__(
        self,
        files: Files,
        per: Literal["line", "file"] = "line",
        labels: Literal["folder"] | None = None,
        classes: list[str] | None = None,
    ) -> None:
        self.paths = [Path(path) for path in files]
        self.per = per
        self.labels = labels
        self.classes = classes

    def files(self) -> list[Path]:
        return self.paths

    def dataset(self) -> tf.data.Dataset:
        labels = _labels("text", self.paths, self.classes) if self.labels else [0] * len(self.paths)
        files = tf.data.Dataset.from_tensor_slices(([str(path) for path in self.paths], labels))
        if self.per == "file":
            return files.map(self._whole, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return files.interleave(
            self._lines,
            cycle_length=min(_FILES_AT_ONCE, len(self.paths)),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )

    @tf.autograph.experimental.do_not_convert
    def _whole(self, path: tf.Tensor, label: tf.Tensor) -> Any:
        text = tf.io.read_file(path)
        return (text, label) if self.labels else text

    @tf.autograph.experimental.do_not_convert
    def _lines(self, path: tf.Tensor, label: tf.Tensor) -> tf.data.Dataset:
        lines = tf.data.TextLineDataset(path).filter(_not_empty)
        return tf.data.Dataset.zip(lines, tf.data.Dataset.from_tensors(label).repeat()) if self.labels else lines


@tf.autograph.experimental.do_not_convert
def _not_empty(line: tf.Tensor) -> tf.Tensor:
    return tf.strings.length(tf.strings.strip(line)) > 0


def _labels(source: str, paths: list[Path], classes: list[str] | None) -> tf.Tensor:
    """The number of each file's folder. Raises JobFailure for a folder that is no class."""
    names = classes or sorted({path.parent.name for path in paths})
    for path in paths:
        if path.parent.name not in names:
            raise _invalid(source, f"{path.parent.name}/{path.name}: its folder is none of {', '.join(names)}")
    return tf.constant([names.index(path.parent.name) for path in paths], tf.int64)


def _invalid(source: str, message: str) -> errors.JobFailure:
    return errors.JobFailure(errors.FailureCode.INVALID_DATA, message, location=errors.Location(component=source))
