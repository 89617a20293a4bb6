"""`images`: image files, labelled by their folders or by a table beside them."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import keras
import tensorflow as tf

from tapeworks import Files, component
from tapeworks_workers.components.sources import boxes as boxes_of_images
from tapeworks_workers.components.sources import image_files, label_tables
from tapeworks_workers.components.sources import masks as masks_of_images
from tapeworks_workers.components.sources.image_files import BrokenImage, ImageFile, named
from tapeworks_workers.components.sources.label_tables import BrokenTable
from tapeworks_workers.components.sources.labelled_files import LabelledFiles, invalid, readable, unreadable

_OF_DECODING = ("DecodeImage", "DecodePng", "DecodeJpeg", "ReadFile")


@component("images")
class Images(LabelledFiles):
    """Images (PNG, JPEG, GIF, BMP, WebP, TIFF, PPM; the first frame or page): x `(height, width, channels)`, y int64,
    the folder's number.

    Images are decoded while the job runs, several at a time, in the same order each pass, and turned upright by their
    EXIF orientation.

    Args:
        files: a glob, or several, below a data root: `flowers/*/*.png`.
        size: height and width to resize to (bilinear, antialiased); null: the files all have one size.
        channels: 1 grey (0.299 R + 0.587 G + 0.114 B), 3 colour (transparency is dropped), 4 with transparency.
        labels: "folder", or null: elements are x alone.
        table: CSV with a header or JSON lines, a glob or several, whose rows label the files; instead of the folder.
        file_column: the column of the table that names the file, by its path below the table's folder or its name.
        label_column: the column of the label: text gives a class, numbers are taken as they are; a list of columns of
            numbers gives a vector of floats.
        classes: names in the order of their numbers; default: those of the training split, in order of name.
        scale: floats from 0 to 1, whatever the bits of a file; false: the stored values, 0 to 255 or, of 16 bits, to
            65535.
        masks: the images of masks, a glob or several: y is the mask of the same name, `(height, width, 1)` int32, its
            values as they are (of a palette the indices), resized to the nearest pixel.
        boxes: the table's column of boxes, each four numbers, or four columns of one box a row: y is
            `{"boxes": (n, 4), "labels": (n,)}`. The boxes are in pixels, x before y, and are scaled with the image.
        boxes_relative: the boxes are parts of width and height, so they are not scaled.
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
        table: Files | None = None,
        file_column: str = "file",
        label_column: str | list[str] = "label",
        classes: list[str] | None = None,
        scale: bool = True,
        masks: Files | None = None,
        boxes: str | list[str] | None = None,
        boxes_relative: bool = False,
        on_error: Literal["fail", "skip"] = "fail",
        max_skipped: int = 100,
    ) -> None:
        if size is not None and min(size) < 1:
            raise ValueError(f"size is the height and width in pixels, not {size}")
        beside = {Path(path) for path in masks or []}
        self.paths = [path for path in map(Path, files) if path not in beside]
        self.size = size
        self.channels = channels
        if table is not None and labels is None:
            raise ValueError('a table of labels needs labels: leave "labels": null out')
        if masks is not None and (table is not None or boxes is not None):
            raise ValueError("y is a mask or comes from a table: give masks or table")
        if boxes is not None and (table is None or not isinstance(label_column, str)):
            raise ValueError("boxes come from a table, with one label_column")
        if isinstance(boxes, list) and len(boxes) != 4:
            raise ValueError(f"boxes names one column of boxes, or four of numbers, not {boxes}")
        self.labels = None if masks is not None else labels
        self.masks = None if masks is None else [Path(path) for path in masks]
        self.boxes = boxes
        self.boxes_relative = boxes_relative
        self.tables = [Path(path) for path in table or []]
        self.file_column = file_column
        self.label_column = label_column
        self.classes = classes
        self.scale = scale
        self.on_error = on_error
        self.max_skipped = max_skipped

    def dataset(self) -> tf.data.Dataset:
        files: list[ImageFile] = self._examined[0]
        self._check_ranges(files)
        size = self.size or self.size_of(files[0])
        decode = image_files.graph_decoder(files, self.channels)
        other = " has another size than the first: give size"
        slices: list[Any] = [
            [str(file.path) for file in files],
            [f"invalid data: {file.name}{other}" for file in files],
        ]
        readings = [[file.decoder, file.orientation, file.largest] for file in files]
        # What all files have in common is a constant of the graph: a slice for each element costs time.
        common = readings[0] if all(one == readings[0] for one in readings) else None
        slices += [] if common is not None else [readings]
        if self.masks is not None:
            of_files = [self._mask_of[file.path] for file in files]
            unlike = " has another size than its image"
            slices += [[str(mask) for mask in of_files], [f"invalid data: {named(mask)}{unlike}" for mask in of_files]]

        @tf.autograph.experimental.do_not_convert
        def image(path: tf.Tensor, message: tf.Tensor, *others: tf.Tensor) -> Any:
            decoder, orientation, largest = tf.unstack(others[0]) if common is None else common
            pixels = decode(path, tf.cast(decoder, tf.int32), tf.cast(orientation, tf.int32))
            x = self._image(pixels, size, largest, message)
            if self.masks is not None:
                return x, masks_of_images.in_graph(others[-2], tf.shape(pixels), size, others[-1])
            if self.boxes is not None and self.size is not None and not self.boxes_relative:
                return x, tf.cast(tf.constant(size), x.dtype) / tf.cast(tf.shape(pixels)[:2], x.dtype)
            return x

        dataset = tf.data.Dataset.from_tensor_slices(tuple(slices))
        dataset = dataset.map(image, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        if self.labels is None:
            return dataset
        if self.boxes is not None:
            return self._with_boxes(dataset, [file.path for file in files])
        labels = self._label_tensor([file.path for file in files])
        return tf.data.Dataset.zip(dataset, tf.data.Dataset.from_tensor_slices(labels))

    def _with_boxes(self, dataset: tf.data.Dataset, paths: Sequence[Path]) -> tf.data.Dataset:
        found = [self._boxes[path] for path in paths]
        labels = [self._class_numbers(labels, path) for path, (_, labels) in zip(paths, found, strict=True)]
        tensors = boxes_of_images.ragged([boxes for boxes, _ in found], labels, keras.config.floatx())
        both = tf.data.Dataset.zip(dataset, tf.data.Dataset.from_tensor_slices(tensors))
        if not isinstance(dataset.element_spec, tuple):
            return both

        @tf.autograph.experimental.do_not_convert
        def scaled(image: Any, y: dict[str, tf.Tensor]) -> Any:
            x, factor = image
            return x, {**y, "boxes": y["boxes"] * tf.tile(factor[::-1], [2])}

        return both.map(scaled, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def _class_numbers(self, labels: Sequence[label_tables.Label], path: Path) -> list[int]:
        """Labels as numbers: texts by the list of classes. Raises JobFailure for what is no class."""
        names = self.classes or self.class_names()
        if names is None:
            return [int(label) for label in labels]
        for label in labels:
            if str(label) not in names:
                raise invalid(self.name, f"{named(path)}: the label {label!r} is none of {', '.join(names)}")
        return [names.index(str(label)) for label in labels]

    def files(self) -> list[Path]:
        return [*self.paths, *self.tables, *(self.masks or [])]

    def class_names(self) -> list[str] | None:
        if not self.tables:
            return super().class_names()
        of_files = [labels for _, labels in self._boxes.values()] if self.boxes else self._table.values()
        found = [label for labels in of_files for label in labels]
        if self.classes is None and not all(isinstance(label, str) for label in found):
            return None
        return sorted(set(map(str, found)))

    def single_class(self, name: str) -> tuple[str, str]:
        if not self.tables:
            return super().single_class(name)
        return (
            f"every image has the label {name!r} in the table",
            'Give a table with several labels, or "classes": a list, if there is only one class.',
        )

    def named_label(self, path: Path) -> str:
        return str(self._table[path][0]) if self.tables else super().named_label(path)

    @functools.cached_property
    def _table(self) -> dict[Path, list[label_tables.Label]]:
        """File → its labels. Raises JobFailure."""
        columns = [self.label_column] if isinstance(self.label_column, str) else self.label_column
        try:
            rows = label_tables.read(self.tables, self.paths, file_column=self.file_column, label_columns=columns)
        except BrokenTable as error:
            raise invalid(self.name, str(error)) from error
        vector = not isinstance(self.label_column, str)
        if vector and any(isinstance(label, str) for labels in rows for label in labels):
            raise invalid(self.name, f"label_column: a vector of {', '.join(columns)} takes only numbers")
        return dict(zip(self.paths, rows, strict=True))

    @functools.cached_property
    def _boxes(self) -> dict[Path, boxes_of_images.Boxes]:
        """File → its boxes. Raises JobFailure."""
        try:
            found = boxes_of_images.read(
                self.tables,
                self.paths,
                file_column=self.file_column,
                boxes=self.boxes or [],
                label_column=str(self.label_column),
            )
        except BrokenTable as error:
            raise invalid(self.name, str(error)) from error
        return dict(zip(self.paths, found, strict=True))

    @functools.cached_property
    def _mask_of(self) -> dict[Path, Path]:
        """Image → its mask. Raises JobFailure."""
        try:
            return masks_of_images.paired(self.paths, self.masks or [])
        except BrokenImage as error:
            raise invalid(self.name, str(error), "A mask is called as its image, with any suffix.") from error

    def _label_tensor(self, paths: Sequence[Path]) -> tf.Tensor:
        if not self.tables or self.class_names() is not None:
            return self._numbers(paths)
        labels = [self._table[path] for path in paths]
        if not isinstance(self.label_column, str):
            return tf.constant(labels, keras.config.floatx())
        numbers = [label for (label,) in labels]
        whole = all(isinstance(number, int) for number in numbers)
        return tf.constant(numbers, tf.int64 if whole else keras.config.floatx())

    def explain(self, error: Exception) -> Exception | None:
        """The file that TensorFlow could not decode: its own message does not name it."""
        if not any(operation in str(error) for operation in _OF_DECODING):
            return None
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            reasons = pool.map(lambda file: image_files.check(file, self.channels), self._examined[0])
            why = next(filter(None, reasons), None)
        return None if why is None else unreadable(self.name, why)

    def _image(self, image: tf.Tensor, size: tuple[int, int], largest: Any, other_size: tf.Tensor) -> tf.Tensor:
        if self.size is not None:
            least = tf.where(tf.math.is_inf(largest), -largest, 0.0)
            image = tf.clip_by_value(tf.image.resize(image, size, antialias=True), least, largest)
        else:  # an image of another size ends the job here, and not where nobody knows which it was
            same = tf.reduce_all(tf.shape(image)[:2] == tf.constant(size))
            with tf.control_dependencies([tf.debugging.Assert(same, [other_size])]):
                image = tf.identity(image)
        image = tf.cast(image, keras.config.floatx())
        scaled = image / tf.cast(largest, image.dtype) if self.scale else image
        return tf.ensure_shape(scaled, [*size, self.channels])

    def _check_ranges(self, files: Sequence[ImageFile]) -> None:
        """Raise JobFailure where values cannot be brought to one range."""
        for file in files:
            if self.scale and file.largest == image_files.UNKNOWN_RANGE:
                message = f"{file.name} holds floats or 32-bit integers, whose range is unknown"
                raise invalid(self.name, message, 'Give "scale": false and scale in data.pipeline or the model.')
            if not self.scale and file.largest != files[0].largest:
                message = f"{file.name} and {files[0].name} have values of different ranges: 8 bits and more"
                raise invalid(self.name, message, 'Give "scale": true: each is then divided by its own largest value.')

    def size_of(self, file: ImageFile | Path) -> tuple[int, int]:
        """Height and width of an image, upright. Raises JobFailure where it cannot be decoded."""

        def shape() -> tuple[int, int]:
            given = file if isinstance(file, ImageFile) else image_files.examine(file, self.channels)
            height, width, _ = image_files.decoded(given, self.channels).shape
            return int(height), int(width)

        return readable(self.name, shape)

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
        broken = image_files.check(file, self.channels)
        if broken is None and self.masks is not None:
            broken = masks_of_images.check(self._mask_of[path])
        return broken or file
