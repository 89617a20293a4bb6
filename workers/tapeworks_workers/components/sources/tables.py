"""`parquet` and `jsonl`: rows with numbers, texts, lists of any length, and sparse vectors, read as a stream.

A part is a row group, or about 1 MiB of lines. Files are read one after another, in order of name.
"""

from __future__ import annotations

import functools
import io
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tapeworks import Files, Source, component, errors
from tapeworks_workers.components.sources.columns import Column, check_nulls
from tapeworks_workers.components.sources.parts import PART_BYTES, Array, Part, lines_of, stream
from tapeworks_workers.components.sources.unpacked_size import check_row_groups, check_texts, flat_texts

_COUNTED_BYTES = 8 * 1024 * 1024


class _Table(Source):
    """What both formats share: from columns to elements."""

    def __init__(
        self,
        files: Files,
        labels: str | list[str] | None = None,
        features: str | list[str] | None = None,
        weight: str | None = None,
        named: bool = False,
        dtypes: dict[str, str] | None = None,
        shapes: dict[str, list[int | None]] | None = None,
        sparse: dict[str, int] | None = None,
    ) -> None:
        if weight is not None and labels is None:
            raise ValueError("a sample weight needs labels: the element is (x, y, sample_weight)")
        self.paths = [Path(path) for path in files]
        self.labels = labels
        self.features = features
        self.weight = weight
        self.named = named
        self.dtypes = dict(dtypes or {})
        self.shapes = dict(shapes or {})
        self.sparse = dict(sparse or {})

    def files(self) -> list[Path]:
        return self.paths

    @abstractmethod
    def _schema(self) -> dict[str, Any]:
        """Column → pyarrow type, of the first file."""

    @abstractmethod
    def _parts(self, path: Path) -> tuple[list[Part], int | None]:
        """The parts of a file, a pair of numbers each, and how many rows it has where that is known."""

    @abstractmethod
    def _table(self, path: Path, part: Part, names: list[str]) -> Any:
        """The columns of one part as a pyarrow.Table."""

    def _check_size(self, path: Path, names: list[str]) -> None:
        """Raises JobFailure where the columns of a file unpack to more than they may."""

    def dataset(self) -> tf.data.Dataset:
        features, columns = self._columns()
        names = [column.name for column in columns]
        for path in self.paths:
            self._check_size(path, names)
        told = [self._parts(path) for path in self.paths]
        read = functools.partial(self._rows, names=names, columns=columns)
        read(self.paths[0], told[0][0][0]) if told[0][0] else None  # a first look: a mistake is told at once

        def element(flat: list[tf.Tensor]) -> Any:
            tensors = {column.name: column.tensor([flat.pop(0) for _ in column.outputs]) for column in columns}
            return self._element(tensors, features)

        dtypes = [dtype for column in columns for dtype in column.outputs]
        parts, counts = [one for one, _ in told], [count for _, count in told]
        if all(count == 0 for count in counts):
            raise self._invalid(f"{', '.join(path.name for path in self.paths)}: no rows")
        return stream(self.paths, parts, read, dtypes, element, counts=counts)

    def _rows(self, path: Path, part: Part, names: list[str], columns: list[Column]) -> list[Array]:
        try:
            table = self._table(path, part, names)
            arrays: list[Array] = []
            for column in columns:
                whole = table[column.name].combine_chunks()
                if hasattr(whole, "dictionary_decode"):
                    check_texts(path, whole, column.name)
                    whole = whole.dictionary_decode()
                check_nulls(whole, column.name)
                arrays += column.arrays(whole)
            return arrays
        except (ValueError, TypeError, KeyError, OSError, AttributeError) as error:  # pyarrow's are ValueErrors too
            raise self._invalid(f"{self._where(path, part)}: {error}") from error

    def _where(self, path: Path, part: Part) -> str:
        return f"{path.name}, part {part[0]}"

    def _element(self, tensors: dict[str, Any], features: list[str]) -> Any:
        if isinstance(self.features, str):
            x = tensors[self.features]
        elif self.named:
            x = {name: tensors[name] for name in features}
        else:
            x = tf.stack([tensors[name] for name in features], axis=1)
        if self.labels is None:
            return x
        y = tensors[self.labels] if isinstance(self.labels, str) else {name: tensors[name] for name in self.labels}
        return (x, y, tensors[self.weight]) if self.weight else (x, y)

    # ── which columns, of what dtype ──

    def _columns(self) -> tuple[list[str], list[Column]]:
        schema = self._schema()
        labels = [self.labels] if isinstance(self.labels, str) else self.labels or []
        chosen = [self.features] if isinstance(self.features, str) else self.features
        features = chosen or [name for name in schema if name not in {*labels, self.weight}]
        names = list(dict.fromkeys([*features, *labels, *([self.weight] if self.weight else [])]))
        for name in [*names, *self.dtypes, *self.shapes, *self.sparse]:
            if name not in schema:
                raise self._invalid(f"{self.paths[0].name} has no column {name!r}; it has {', '.join(schema)}")
        columns = [self._column(name, schema[name]) for name in names]
        if isinstance(self.features, str) or self.named:
            return features, columns
        floatx = keras.config.floatx()
        vector = {name: self.dtypes.get(name, floatx) for name in features}
        wrong = [one for one in columns if one.name in vector and (one.shape or one.size or one.dtype == "string")]
        if wrong or len(set(vector.values())) > 1:
            what = f"{wrong[0].name!r} is no number" if wrong else "the features have several dtypes"
            raise self._invalid(f"{what}: one vector takes numbers of one dtype; name one feature, or set named")
        return features, [
            Column(one.name, vector[one.name], one.shape) if one.name in vector else one for one in columns
        ]

    def _column(self, name: str, kind: Any) -> Column:
        import pyarrow as pa

        if name in self.sparse:
            if not pa.types.is_struct(kind):
                raise self._invalid(f'column {name!r} is {kind}: a sparse one holds {{"indices": […], "values": […]}}')
            return Column(name, self.dtypes.get(name, keras.config.floatx()), (), self.sparse[name])
        shape: list[int | None] = []
        while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            shape.append(kind.list_size if pa.types.is_fixed_size_list(kind) else None)
            kind = kind.value_type
        given = self.shapes.get(name, shape)
        if len(given) != len(shape):
            raise self._invalid(f"column {name!r} has {len(shape)} dimensions, the shape {given} {len(given)}")
        return Column(name, self.dtypes.get(name) or self._dtype(name, kind), tuple(given))

    def _dtype(self, name: str, kind: Any) -> str:
        import pyarrow as pa

        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if pa.types.is_floating(kind):
            return keras.config.floatx()
        if pa.types.is_integer(kind):
            return str(kind)
        if pa.types.is_boolean(kind):
            return "bool"
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
            return "string"
        raise self._invalid(f"column {name!r} is {kind}, of which no tensor is made: choose features without it")

    def _invalid(self, message: str) -> errors.JobFailure:
        name = type(self).__name__.lower()
        return errors.JobFailure(errors.FailureCode.INVALID_DATA, message, location=errors.Location(component=name))


@component("parquet")
class Parquet(_Table):
    """Rows of Parquet files with the same columns; a row group is read at a time.

    Numbers keep their dtype, floats take the job's; lists become RaggedTensors, fixed-size ones dense.

    Args:
        files: a glob, or several, below a data root.
        labels: the column y; a list of columns gives a dict; null: elements are x alone.
        features: the column x, as it is; a list of columns gives a vector (numbers of one dtype) or, with `named`, a
            dict. Default: all that are neither labels nor weight.
        weight: the column of sample weights.
        named: x is a dict by column.
        dtypes: column → dtype to cast to.
        shapes: column → shape of one row's list, null where the length varies: `[null, 3]` a series of three values.
        sparse: column of `{indices, values}` → its size: rows become SparseTensors, never made dense.
    """

    def _schema(self) -> dict[str, Any]:
        schema = self._open(self.paths[0]).schema_arrow
        return dict(zip(schema.names, schema.types, strict=True))

    def _open(self, path: Path, texts: Sequence[str] = ()) -> Any:
        import pyarrow.parquet

        try:
            return pyarrow.parquet.ParquetFile(path, read_dictionary=list(texts))
        except (ValueError, OSError) as error:
            raise self._invalid(f"{path.name} cannot be read as Parquet: {error}") from error

    def _parts(self, path: Path) -> tuple[list[Part], int | None]:
        metadata = self._open(path).metadata
        return [(group, 0) for group in range(metadata.num_row_groups)], metadata.num_rows

    def _check_size(self, path: Path, names: list[str]) -> None:
        check_row_groups(path, self._open(path).metadata, names)

    def _table(self, path: Path, part: Part, names: list[str]) -> Any:
        with self._open(path, flat_texts(self._open(path).metadata, names)) as file:
            return file.read_row_group(part[0], columns=names, use_threads=False)


@component("jsonl")
class Jsonl(_Table):
    """One JSON object a line, all with the same fields; about 1 MiB of lines is read at a time.

    What the fields hold is taken from the first lines: whole numbers are int64, others take the job's float dtype,
    lists become RaggedTensors. A field that is whole in the first MiB and is not later needs its `dtypes`.

    Args:
        files: a glob, or several, below a data root.
        labels: the field y; a list of fields gives a dict; null: elements are x alone.
        features: the field x, as it is; a list of fields gives a vector (numbers of one dtype) or, with `named`, a
            dict. Default: all that are neither labels nor weight.
        weight: the field of sample weights.
        named: x is a dict by field.
        dtypes: field → dtype.
        shapes: field → shape of one row's list, null where the length varies: `[null, 3]` a series of three values.
        sparse: field of `{"indices": […], "values": […]}` → its size: rows become SparseTensors, never made dense.
    """

    def _schema(self) -> dict[str, Any]:
        parts, _ = self._parts(self.paths[0])
        if not parts:
            raise self._invalid(f"{self.paths[0].name} is empty")
        try:
            schema = self._read(self.paths[0], parts[0], None).schema
        except ValueError as error:
            raise self._invalid(f"{self._where(self.paths[0], parts[0])}: {error}") from error
        return {name: self._wider(name, kind) for name, kind in zip(schema.names, schema.types, strict=True)}

    def _wider(self, name: str, kind: Any) -> Any:
        import pyarrow as pa

        return pa.float64() if pa.types.is_integer(kind) and self.dtypes.get(name, "").startswith("float") else kind

    def _parts(self, path: Path) -> tuple[list[Part], int | None]:
        size = path.stat().st_size
        parts, start = [], 0
        with path.open("rb") as lines:
            count = sum(1 for line in lines if line.strip()) if size <= _COUNTED_BYTES else None
            while start < size:
                lines.seek(min(start + PART_BYTES, size))
                lines.readline()
                parts.append((start, lines.tell()))
                start = lines.tell()
        return parts, count

    def _table(self, path: Path, part: Part, names: list[str]) -> Any:
        import pyarrow as pa

        schema = self._schema_of_columns
        return self._read(path, part, pa.schema([(name, schema[name]) for name in names]))

    @functools.cached_property
    def _schema_of_columns(self) -> dict[str, Any]:
        return self._schema()

    def _read(self, path: Path, part: Part, schema: Any) -> Any:
        import pyarrow.json

        with path.open("rb") as lines:
            lines.seek(part[0])
            block = lines.read(part[1] - part[0])
        return pyarrow.json.read_json(
            io.BytesIO(block),
            pyarrow.json.ReadOptions(use_threads=False, block_size=len(block) + 1),
            pyarrow.json.ParseOptions(
                explicit_schema=schema, unexpected_field_behavior="ignore" if schema else "infer"
            ),
        )

    def _where(self, path: Path, part: Part) -> str:
        return lines_of(path, part)
