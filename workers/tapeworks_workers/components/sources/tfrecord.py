"""`tfrecord`: files of tf.train.Example records."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tapeworks import Files, Source, component, errors
from tapeworks_workers.components.sources import record_files, tfds
from tapeworks_workers.components.sources.encoded_images import FAILED, EncodedImage, with_images
from tapeworks_workers.components.sources.image_files import BrokenImage
from tapeworks_workers.components.sources.record_files import RecordFile

_PARSED_AT_ONCE = 64
_SHOWN = 5
_OF_READING = (
    "ParseExample",
    "TFRecord",
    "corrupted record",
    "truncated record",
    "Example",
    "Feature:",
    "Key: ",
    FAILED,
)
_STORED = {"float32": "float32", "int64": "int64", "string": "string"}
"""What an Example can hold."""


@component("tfrecord")
class TFRecord(Source):
    """Records of tf.train.Example, parsed many at a time; several files are read one after another, in order of name.

    Args:
        files: a glob, or several, below a data root.
        schema: feature → how it is stored. `{"dtype": "int64"}` is a scalar (`float32` and `string` are there too),
            `{"dtype": "float32", "shape": [28, 28]}` of that shape, `[null]` and `[null, 3]` of any length: a
            RaggedTensor. `{"dtype": "float32", "size": 100000, "index": NAME, "value": NAME}` is a SparseTensor from
            two stored features. Default: what the `features.json` of TFDS beside the files says.
        features: the feature x, as it is; a list gives a dict. Default: all that are neither labels nor weight.
        labels: the feature y; a list gives a dict; null: elements are x alone.
        weight: the feature of sample weights.
        dtypes: feature → dtype to cast to; default: floats take the job's.
        images: feature of encoded images, a scalar `string` of the schema → how they are read: `size`, `channels` 3 and
            `scale` true, as in the source `images`.
        compression: of the files; default: gzip'd files are found by their first bytes.
        on_error: of a record that is damaged or does not fit the schema: "fail" ends the job, "skip" leaves it out and
            reports it. With "skip" every record is parsed once when the job starts. Behind a damaged frame the rest of
            the file is lost.
        max_skipped: records that "skip" may leave out; more end the job.
    """

    skipped_kind = "records"

    def __init__(
        self,
        files: Files,
        schema: dict[str, dict[str, Any]] | None = None,
        features: str | list[str] | None = None,
        labels: str | list[str] | None = None,
        weight: str | None = None,
        dtypes: dict[str, str] | None = None,
        images: dict[str, dict[str, Any]] | None = None,
        compression: Literal["GZIP", "ZLIB"] | None = None,
        on_error: Literal["fail", "skip"] = "fail",
        max_skipped: int = 100,
    ) -> None:
        if weight is not None and labels is None:
            raise ValueError("a sample weight needs labels: the element is (x, y, sample_weight)")
        self.paths = [Path(path) for path in files]
        schema = self._derived() if schema is None else schema
        self.schema = {name: _stored(name, given) for name, given in schema.items()}
        self.features = features
        self.labels = labels
        self.weight = weight
        self.dtypes = dtypes or {}
        self.compression = compression
        self.on_error = on_error
        self.max_skipped = max_skipped
        self.spec = schema
        self.images = {name: EncodedImage.of(name, options) for name, options in (images or {}).items()}
        named = [features or [], labels or [], weight or [], list(self.images)]
        for name in [one for part in named for one in ([part] if isinstance(part, str) else part)]:
            if name not in schema:
                raise ValueError(f"the schema has no {name!r}; it has {', '.join(schema)}")
        for name in self.images:
            if self.schema[name] != tf.io.FixedLenFeature([], "string"):
                raise ValueError(f'images: the schema of {name!r} is {{"dtype": "string"}} for one image a record')

    def files(self) -> list[Path]:
        return self.paths

    def class_names(self) -> list[str] | None:
        names = tfds.class_names(self.paths[0], self.labels) if isinstance(self.labels, str) else None
        self.classes = names if self.classes is None else self.classes
        return names

    def _derived(self) -> dict[str, dict[str, Any]]:
        """The schema that TFDS wrote beside the files. Raises JobFailure."""
        try:
            found = {path.parent: tfds.schema_beside(path) for path in self.paths}
        except (ValueError, OSError, AttributeError, TypeError) as error:
            raise self._invalid(str(error)) from error
        (folder, schema), *others = found.items()
        if schema is None:
            raise ValueError(
                f"a schema is needed, since no {tfds.FILE} of TFDS lies beside {self.paths[0].name}: "
                '{"label": {"dtype": "int64"}, …}'
            )
        for other, its in others:
            if its != schema:
                raise self._invalid(f"the {tfds.FILE} of the folders {folder.name} and {other.name} differ")
        return schema

    def _invalid(self, message: str) -> errors.JobFailure:
        return errors.JobFailure(
            errors.FailureCode.INVALID_DATA, message, location=errors.Location(component="tfrecord")
        )

    def dataset(self) -> tf.data.Dataset:
        compressions = self._compressions
        if self.on_error == "skip":
            return self._decoded(self._of_examined(self._examined))
        for path, compression in zip(self.paths, compressions, strict=True):
            self._check(path, compression)
        files = ([str(path) for path in self.paths], compressions)
        records = tf.data.Dataset.from_tensor_slices(files).flat_map(
            lambda path, compression: tf.data.TFRecordDataset(path, compression_type=compression)
        )
        parsed = records.batch(_PARSED_AT_ONCE).map(
            self._parsed, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        return self._decoded(parsed.unbatch())

    def _decoded(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """The dataset with its images decoded. Raises JobFailure where the first cannot be."""
        places: dict[tuple[Any, ...], Any] = {}
        for name, image in self.images.items():
            decode = functools.partial(image.tensor, size=self._image_sizes[name])
            labels = [self.labels] if isinstance(self.labels, str) else self.labels or []
            features = self.features or [one for one in self.schema if one not in {*labels, self.weight}]
            for part, chosen in enumerate((features, self.labels)):
                if chosen == name:
                    places[(part,)] = decode
                elif isinstance(chosen, list) and name in chosen:
                    places[(part, name)] = decode
        return with_images(dataset, places) if places else dataset

    @functools.cached_property
    def _image_sizes(self) -> dict[str, tuple[int, int]]:
        """Feature → height and width, by the first image that can be read. Raises JobFailure."""
        sizes = {name: image.size for name, image in self.images.items()}
        for path, compression in zip(self.paths, self._compressions, strict=True):
            for record in tf.data.TFRecordDataset(str(path), compression_type=compression):
                for name in [name for name, size in sizes.items() if size is None]:
                    try:
                        sizes[name] = self.images[name].shape_of(self._value(record, name))
                    except record_files.UNREADABLE as error:
                        if self.on_error == "fail":
                            raise _unreadable(f"{path.name}: the first image of {name!r} {error}") from error
                if None not in sizes.values():
                    return {name: size for name, size in sizes.items() if size is not None}
        return {name: size or (1, 1) for name, size in sizes.items()}

    def _value(self, record: tf.Tensor, name: str) -> bytes:
        value: bytes = tf.io.parse_single_example(record, {name: self.schema[name]})[name].numpy()
        return value

    def _tried(self, records: tf.Tensor) -> None:
        """Parse records and decode their images. Raises OpError, BrokenImage."""
        self._parsed(records)
        for name, image in self.images.items():
            size = None if image.size is not None else self._image_sizes[name]
            for value in tf.io.parse_example(records, {name: self.schema[name]})[name].numpy():
                try:
                    image.decoded(value, size)
                except BrokenImage as broken:
                    raise BrokenImage(f"the image in {name!r} {broken}") from broken

    def rows_by_file(self) -> list[int] | None:
        """Known where every record was read once."""
        if self.on_error == "fail":
            return None
        return [file.records - sum(number < file.records for number in file.broken) for file in self._examined]

    def skipped(self) -> list[str]:
        if self.on_error == "fail":
            return []
        return [reason for file in self._examined for reason in file.reasons()]

    def explain(self, error: Exception) -> Exception | None:
        """The file and record that could not be read: TensorFlow's own message does not name them."""
        if not (isinstance(error, UnicodeDecodeError) or any(word in str(error) for word in _OF_READING)):
            return None
        for path, compression in zip(self.paths, self._compressions, strict=True):
            found = record_files.examine(path, compression, self._tried, until_first=True)
            if found.broken:
                return _unreadable(found.reasons()[0])
        return None

    def _of_examined(self, files: Sequence[RecordFile]) -> tf.data.Dataset:
        """The records that can be read: one fixed list, so splits and a resume are exact."""
        counts = [file.records for file in files]
        begins = np.concatenate([[0], np.cumsum(counts)])
        broken = [begins[index] + number for index, file in enumerate(files) for number in file.broken
                  if number < file.records]  # fmt: skip
        left_out = tf.constant(np.array(broken, np.int64))
        slices = ([str(file.path) for file in files], [file.compression for file in files], np.array(counts, np.int64))

        @tf.autograph.experimental.do_not_convert
        def of_batch(batch: tf.Tensor, records: tf.Tensor) -> Any:
            places = batch * _PARSED_AT_ONCE + tf.range(tf.size(records, tf.int64))
            wrong = tf.reduce_any(places[:, None] == left_out[None], axis=1)
            return self._parsed(tf.boolean_mask(records, ~wrong))

        records = tf.data.Dataset.from_tensor_slices(slices).flat_map(
            lambda path, compression, count: tf.data.TFRecordDataset(path, compression_type=compression).take(count)
        )
        parsed = records.batch(_PARSED_AT_ONCE).enumerate()
        dataset = parsed.map(of_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).unbatch()
        return dataset.apply(tf.data.experimental.assert_cardinality(int(begins[-1]) - len(broken)))

    @functools.cached_property
    def _compressions(self) -> list[str]:
        return [self.compression or compression_of(path) for path in self.paths]

    @functools.cached_property
    def _examined(self) -> list[RecordFile]:
        """Every file, read once. Raises JobFailure where too much is broken."""
        files = [
            record_files.examine(path, compression, self._tried)
            for path, compression in zip(self.paths, self._compressions, strict=True)
        ]
        reasons = [reason for file in files for reason in file.reasons()]
        left = sum(file.records - sum(number < file.records for number in file.broken) for file in files)
        if len(reasons) > self.max_skipped or not left:
            allowed = f"max_skipped is {self.max_skipped}" if len(reasons) > self.max_skipped else "none is left"
            more = f"; and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
            raise _invalid(
                f"{len(reasons)} records cannot be read, {allowed}: {'; '.join(reasons[:_SHOWN])}{more}",
                "Repair the files, correct the schema, or raise max_skipped.",
            )
        return files

    def _check(self, path: Path, compression: str) -> None:
        """Parse the first record here, where a mistake can be reported with its file."""
        try:
            first = next(iter(tf.data.TFRecordDataset(str(path), compression_type=compression)), None)
            if first is not None:
                self._parsed(first[None])
        except (tf.errors.OpError, UnicodeDecodeError) as error:
            raise _unreadable(f"{path.name}, record 1: {record_files.said(error)}") from error
        if compression and not record_files.is_complete(path):
            raise _unreadable(record_files.examine(path, compression, self._tried, until_first=True).reasons()[0])

    @tf.autograph.experimental.do_not_convert
    def _parsed(self, records: tf.Tensor) -> Any:
        found = tf.io.parse_example(records, self.schema)
        values = {name: self._cast(name, value) for name, value in found.items()}
        if isinstance(self.features, str):
            x = values[self.features]
        else:
            labels = [self.labels] if isinstance(self.labels, str) else self.labels or []
            x = {name: values[name] for name in self.features or values if name not in {*labels, self.weight}}
        if self.labels is None:
            return x
        y = values[self.labels] if isinstance(self.labels, str) else {name: values[name] for name in self.labels}
        return (x, y, values[self.weight]) if self.weight else (x, y)

    def _cast(self, name: str, value: Any) -> Any:
        shape = self.spec[name].get("shape", [])
        if isinstance(value, tf.RaggedTensor) and len(shape) > 1:
            value = value.with_values(tf.ensure_shape(_dense(value.values), [None, *shape[1:]]))
        dtype = self.dtypes.get(name, keras.config.floatx() if value.dtype.is_floating else None)
        return value if dtype is None else tf.cast(value, dtype)


def _unreadable(message: str) -> errors.JobFailure:
    return _invalid(message, 'Correct the schema or the file, or give "on_error": "skip".')


def _invalid(message: str, hint: str) -> errors.JobFailure:
    return errors.JobFailure(
        errors.FailureCode.INVALID_DATA, message, hint=hint, location=errors.Location(component="tfrecord")
    )


def compression_of(path: Path) -> str:
    """`GZIP` where a file begins as gzip does and its first record can be read so; else none."""
    with path.open("rb") as file:
        if file.read(3) != b"\x1f\x8b\x08":
            return ""
    try:
        next(iter(tf.data.TFRecordDataset(str(path), compression_type="GZIP")), None)
    except tf.errors.DataLossError:
        return ""  # the length of a first record can look like gzip
    return "GZIP"


def _dense(values: Any) -> tf.Tensor:
    """Uniform inner dimensions, which parse_example tells by row splits, as dimensions of the values."""
    return values.to_tensor() if isinstance(values, tf.RaggedTensor) else values


def _stored(name: str, given: dict[str, Any]) -> Any:
    """What tf.io.parse_example takes. Raises ValueError."""
    dtype = _STORED.get(given.get("dtype", ""))
    unknown = set(given) - {"dtype", "shape", "size", "index", "value"}
    if dtype is None or unknown:
        what = f"unknown key {min(unknown)!r}" if unknown else f"dtype {given.get('dtype')!r}"
        raise ValueError(f"schema of {name!r}: {what}; dtype is one of {', '.join(_STORED)}, beside shape, or size, "
                         "index and value")  # fmt: skip
    if "size" in given:
        if not isinstance(given.get("index"), str) or not isinstance(given.get("value"), str):
            raise ValueError(f"schema of {name!r}: a sparse one names the features index and value")
        return tf.io.SparseFeature(given["index"], given["value"], dtype, given["size"])
    shape = given.get("shape", [])
    if None in shape:
        if shape[0] is not None or None in shape[1:]:
            raise ValueError(f"schema of {name!r}: only the first dimension may be null, not {shape}")
        inner = [tf.io.RaggedFeature.UniformRowLength(length) for length in shape[1:]]
        return tf.io.RaggedFeature(dtype, partitions=inner, row_splits_dtype=tf.int64)
    return tf.io.FixedLenFeature(shape, dtype)
