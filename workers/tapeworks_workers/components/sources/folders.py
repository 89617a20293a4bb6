"""`images` and `text`: files whose class is the name of their folder.

The folder's name counts, not the path above it: `flowers/daisy/1.png` is a daisy. The engine gives all sources of a job
one list of classes, that of the training split, before it asks for a dataset; a source by itself numbers its own, in
order of name.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import keras
import tensorflow as tf

from tapeworks import Files, Source, component, errors
from tapeworks_workers.components.sources import image_files, text_files
from tapeworks_workers.components.sources.image_files import BrokenImage, ImageFile
from tapeworks_workers.components.sources.text_files import BrokenText, TextFile

_FILES_AT_ONCE = 4
_SHOWN = 5
_OF_DECODING = ("DecodeImage", "DecodePng", "DecodeJpeg", "ReadFile")


class _Folders(Source):
    """What sources of files in folders share: labels by folder, files that cannot be read."""

    name: str
    paths: list[Path]
    labels: Literal["folder"] | None
    on_error: Literal["fail", "skip"]
    max_skipped: int

    def files(self) -> list[Path]:
        return self.paths

    def class_names(self) -> list[str] | None:
        return sorted({path.parent.name for path in self.paths}) if self.labels else None

    def skipped(self) -> list[str]:
        return [why for _, why in self._examined[1]]

    @functools.cached_property
    def _examined(self) -> tuple[list[Any], list[tuple[Path, str]]]:
        """The files that can be read, and (path, reason) of the others. Raises JobFailure for those not allowed."""
        if self.on_error == "fail":
            return [_readable(self.name, functools.partial(self._examine, path)) for path in self.paths], []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            results = list(pool.map(self._tried, self.paths))
        broken = [(p, r) for p, r in zip(self.paths, results, strict=True) if isinstance(r, str)]
        if len(broken) > self.max_skipped or len(broken) == len(self.paths):
            allowed = f"max_skipped is {self.max_skipped}" if len(broken) > self.max_skipped else "none is left"
            raise _invalid(
                self.name,
                f"{len(broken)} of {len(self.paths)} files cannot be read, {allowed}: {_listed(broken)}",
                "Repair or remove the files, or raise max_skipped.",
            )
        return [result for result in results if not isinstance(result, str)], broken

    def _examine(self, path: Path) -> Any:
        """A file by its headers, or by all of it where these leave a doubt. Raises BrokenImage, BrokenText."""
        raise NotImplementedError

    def _tried(self, path: Path) -> Any:
        """A file that was decoded, or why it cannot be."""
        raise NotImplementedError

    def _numbers(self, paths: Sequence[Path]) -> tf.Tensor:
        """The number of each file's folder. Raises JobFailure for a folder that is no class."""
        names = self.classes or self.class_names() or []
        number = {name: index for index, name in enumerate(names)}
        for path in paths:
            if path.parent.name not in number:
                listed = ", ".join(names)
                raise _invalid(self.name, f"{path.parent.name}/{path.name}: its folder is none of {listed}")
        return tf.constant([number[path.parent.name] for path in paths], tf.int64)


@component("images")
class Images(_Folders):
    """Images (PNG, JPEG, GIF, BMP, WebP, TIFF, PPM; the first frame or page): x `(height, width, channels)`, y int64,
    the folder's number.

    Images are decoded while the job runs, several at a time, in the same order each pass, and turned upright by their
    EXIF orientation.

    Args:
        files: a glob, or several, below a data root: `flowers/*/*.png`.
        size: height and width to resize to (bilinear, antialiased); null: the files all have one size.
        channels: 1 grey (0.299 R + 0.587 G + 0.114 B), 3 colour (transparency is dropped), 4 with transparency.
        labels: "folder", or null: elements are x alone.
        classes: folder names in the order of their numbers; default: those of the training split, in order of name.
        scale: floats from 0 to 1, whatever the bits of a file; false: the stored values, 0 to 255 or, of 16 bits, to
            65535.
        on_error: of a file that cannot be decoded: "fail" ends the job, "skip" leaves it out and reports it. With
            "skip" every file is decoded once when the job starts.
        max_skipped: files that "skip" may leave out; more end the job.
    """

    name = "images"

    def __init__(
        self,
        files: Files,
        size: tuple[int, int] | None = None,
        channels: Literal[1, 3, 4] = 3,
        labels: Literal["folder"] | None = "folder",
        classes: list[str] | None = None,
        scale: bool = True,
        on_error: Literal["fail", "skip"] = "fail",
        max_skipped: int = 100,
    ) -> None:
        if size is not None and min(size) < 1:
            raise ValueError(f"size is the height and width in pixels, not {size}")
        self.paths = [Path(path) for path in files]
        self.size = size
        self.channels = channels
        self.labels = labels
        self.classes = classes
        self.scale = scale
        self.on_error = on_error
        self.max_skipped = max_skipped

    def dataset(self) -> tf.data.Dataset:
        files: list[ImageFile] = self._examined[0]
        largest = self._largest(files)
        size = self.size or self.size_of(files[0])
        decode = image_files.graph_decoder(files, self.channels)
        given = (
            [str(file.path) for file in files],
            tf.constant([file.decoder for file in files], tf.int32),
            tf.constant([file.orientation for file in files], tf.int32),
            tf.constant(largest, tf.float32),
        )

        @tf.autograph.experimental.do_not_convert
        def image(path: tf.Tensor, decoder: tf.Tensor, orientation: tf.Tensor, most: tf.Tensor) -> tf.Tensor:
            return self._image(path, decode(path, decoder, orientation), size, most)

        dataset = tf.data.Dataset.from_tensor_slices(given)
        dataset = dataset.map(image, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        if self.labels is None:
            return dataset
        labels = self._numbers([file.path for file in files])
        return tf.data.Dataset.zip(dataset, tf.data.Dataset.from_tensor_slices(labels))

    def explain(self, error: Exception) -> Exception | None:
        """The file that TensorFlow could not decode: its own message does not name it."""
        if not any(operation in str(error) for operation in _OF_DECODING):
            return None
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            reasons = pool.map(lambda file: image_files.check(file, self.channels), self._examined[0])
            why = next(filter(None, reasons), None)
        return None if why is None else _unreadable(self.name, why)

    def _image(self, path: tf.Tensor, image: tf.Tensor, size: tuple[int, int], largest: tf.Tensor) -> tf.Tensor:
        if self.size is not None:
            least = tf.where(tf.math.is_inf(largest), -largest, 0.0)
            image = tf.clip_by_value(tf.image.resize(image, size, antialias=True), least, largest)
        # Without resizing an image of another size ends the job here, and not where nobody knows which it was.
        name = tf.strings.regex_replace(path, ".*/([^/]*/)", r"\1")
        told = tf.strings.join([b"invalid data: ", name, b" has another size than the first: give size"])
        same = tf.reduce_all(tf.shape(image)[:2] == tf.constant(size))
        with tf.control_dependencies([tf.debugging.Assert(same, [told])]):
            image = tf.cast(image, keras.config.floatx())
        scaled = image / tf.cast(largest, image.dtype) if self.scale else image
        return tf.ensure_shape(scaled, [*size, self.channels])

    def _largest(self, files: Sequence[ImageFile]) -> list[float]:
        """Of each file. Raises JobFailure where values cannot be brought to one range."""
        for file in files:
            if self.scale and file.largest == image_files.UNKNOWN_RANGE:
                message = f"{file.name} holds floats or 32-bit integers, whose range is unknown"
                raise _invalid(self.name, message, 'Give "scale": false and scale in data.pipeline or the model.')
            if not self.scale and file.largest != files[0].largest:
                message = f"{file.name} and {files[0].name} have values of different ranges: 8 bits and more"
                raise _invalid(self.name, message, 'Give "scale": true: each is then divided by its own largest value.')
        return [file.largest for file in files]

    def size_of(self, file: ImageFile | Path) -> tuple[int, int]:
        """Height and width of an image, upright. Raises JobFailure where it cannot be decoded."""

        def shape() -> tuple[int, int]:
            given = file if isinstance(file, ImageFile) else image_files.examine(file, self.channels)
            height, width, _ = image_files.decoded(given, self.channels).shape
            return int(height), int(width)

        return _readable(self.name, shape)

    def _examine(self, path: Path) -> ImageFile:
        file = image_files.examine(path, self.channels)
        if file.decoder != image_files.PILLOW and not file.complete:
            image_files.decoded(file, self.channels)
        return file

    def _tried(self, path: Path) -> ImageFile | str:
        try:
            file = image_files.examine(path, self.channels)
        except BrokenImage as error:
            return str(error)
        return image_files.check(file, self.channels) or file


@component("text")
class Text(_Folders):
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
        self.encoding = text_files.codec(encoding)
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
        text = text_files.whole(path, self.encoding)
        return (text, label) if self.labels else text

    @tf.autograph.experimental.do_not_convert
    def _lines(self, marked: bool, path: tf.Tensor, label: tf.Tensor) -> tf.data.Dataset:
        lines = text_files.lines(path, self.encoding, marked).filter(_not_empty)
        return tf.data.Dataset.zip(lines, tf.data.Dataset.from_tensors(label).repeat()) if self.labels else lines

    def _examine(self, path: Path) -> TextFile:
        return text_files.examine(path, self.encoding)

    def _tried(self, path: Path) -> TextFile | str:
        try:
            return self._examine(path)
        except BrokenText as error:
            return str(error)


@tf.autograph.experimental.do_not_convert
def _not_empty(line: tf.Tensor) -> tf.Tensor:
    return tf.strings.length(tf.strings.strip(line)) > 0


def _readable(source: str, read: Callable[[], Any]) -> Any:
    """What `read` gives. Raises JobFailure where the file cannot be read."""
    try:
        return read()
    except (BrokenImage, BrokenText) as error:
        raise _unreadable(source, str(error)) from error


def _unreadable(source: str, message: str) -> errors.JobFailure:
    return _invalid(source, message, 'Repair or remove the file, or give "on_error": "skip".')


def _listed(broken: Sequence[tuple[Path, str]]) -> str:
    more = f"; and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
    return "; ".join(why for _, why in broken[:_SHOWN]) + more


def _invalid(source: str, message: str, hint: str = "") -> errors.JobFailure:
    return errors.JobFailure(
        errors.FailureCode.INVALID_DATA, message, hint=hint or None, location=errors.Location(component=source)
    )
