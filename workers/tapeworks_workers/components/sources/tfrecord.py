"""`tfrecord`: files of tf.train.Example records."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import keras
import tensorflow as tf

from tapeworks import Files, Source, component, errors
from tapeworks_workers.components.sources import tfds

_PARSED_AT_ONCE = 64
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
        compression: of the files; default: gzip'd files are found by their first bytes.
    """

    def __init__(
        self,
        files: Files,
        schema: dict[str, dict[str, Any]] | None = None,
        features: str | list[str] | None = None,
        labels: str | list[str] | None = None,
        weight: str | None = None,
        dtypes: dict[str, str] | None = None,
        compression: Literal["GZIP", "ZLIB"] | None = None,
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
        self.spec = schema
        named = [features or [], labels or [], weight or []]
        for name in [one for part in named for one in ([part] if isinstance(part, str) else part)]:
            if name not in schema:
                raise ValueError(f"the schema has no {name!r}; it has {', '.join(schema)}")

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
        compressions = [self.compression or compression_of(path) for path in self.paths]
        for path, compression in zip(self.paths, compressions, strict=True):
            self._check(path, compression)
        files = ([str(path) for path in self.paths], compressions)
        records = tf.data.Dataset.from_tensor_slices(files).flat_map(
            lambda path, compression: tf.data.TFRecordDataset(path, compression_type=compression)
        )
        parsed = records.batch(_PARSED_AT_ONCE).map(
            self._parsed, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        return parsed.unbatch()

    def _check(self, path: Path, compression: str) -> None:
        """Parse the first record here, where a mistake can be told with its file."""
        try:
            first = next(iter(tf.data.TFRecordDataset(str(path), compression_type=compression)), None)
            if first is not None:
                self._parsed(first[None])
        except tf.errors.OpError as error:
            raise self._invalid(f"{path.name} cannot be read with this schema: {error.message}") from error

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
