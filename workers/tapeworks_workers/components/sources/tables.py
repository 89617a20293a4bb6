"""What `parquet` and `jsonl` share: rows with numbers, texts, times, lists of any length, and sparse vectors.

A part is a row group, or about 1 MiB of lines. Files are read one after another, in order of name.
The columns of all files are compared when the job starts; each value is cast safely when it is read.
"""

from __future__ import annotations

import copy
import functools
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tapeworks import Files, errors
from tapeworks_workers.components.sources.arrow_columns import Form, Unreadable, form_of, joined
from tapeworks_workers.components.sources.class_labels import (
    FRACTIONS,
    LABEL_OF_FEATURE,
    Classes,
    NamedLabels,
    class_numbers,
    distinct,
)
from tapeworks_workers.components.sources.columns import Column, Description, ImageColumn, holds_images
from tapeworks_workers.components.sources.encoded_images import FAILED, EncodedImage, with_images
from tapeworks_workers.components.sources.image_files import BrokenImage
from tapeworks_workers.components.sources.partitions import constant, partitions
from tapeworks_workers.components.sources.parts import Part, checked_first, stream
from tapeworks_workers.components.sources.safe_casts import Array, Unfit

_EXAMINED_BYTES = 64 * 1024 * 1024
"""Files that have no more together are described by all their values, larger ones by the first part of each."""


class Table(NamedLabels):
    """A source of rows with named columns of Arrow types."""

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
        images: dict[str, dict[str, Any]] | None = None,
        nulls: Literal["fail", "missing"] = "fail",
        classes: Classes = None,
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
        self.image_sizes: dict[str, tuple[int, int]] = {}
        self.images = {name: EncodedImage.of(name, options) for name, options in (images or {}).items()}
        self.missing = nulls == "missing"
        self.number_classes(classes, labels, self.dtypes, missing=self.missing)

    def files(self) -> list[Path]:
        return self.paths

    def feature_names(self) -> list[str] | None:
        return None if self.named or isinstance(self.features, str) else self._columns()[0]

    def left_out(self) -> list[str]:
        if self.features is not None:
            return []
        index = [f"column {name!r} is left out: it is pandas' index; name it in features to use it"
                 for name in self.indices]  # fmt: skip
        return index + [
            f"column {name!r} is left out: it {form}"
            for name, form in self.forms.items()
            if isinstance(form, Unreadable) and name not in {*self.sparse, *self.images}
        ]

    # ── what a format defines ──

    @functools.cached_property
    def types(self) -> dict[Path, dict[str, Any]]:
        """The Arrow types of each file's own columns. Raises JobFailure."""
        return {path: self._types(path) for path in self.paths}

    @functools.cached_property
    def indices(self) -> list[str]:
        """Columns that are an index of pandas, and no features unless they are named."""
        return []

    @abstractmethod
    def _types(self, path: Path) -> dict[str, Any]:
        """Column → Arrow type of one file."""

    @abstractmethod
    def _parts(self, path: Path) -> tuple[list[Part], int]:
        """The parts of a file, a pair of numbers each, and how many rows it has."""

    @abstractmethod
    def _table(self, path: Path, part: Part, names: list[str]) -> Any:
        """Columns of one part as a pyarrow.Table."""

    @abstractmethod
    def _place(self, path: Path, part: Part, row: int) -> str:
        """Where a row of a part is, for a message."""

    def _size(self) -> int | None:
        """Bytes of all files as they are read; None: as they are stored."""
        return None

    @abstractmethod
    def _has_nulls(self, name: str) -> bool:
        """Whether a column has nulls, as far as is known when the job starts."""

    # ── from columns to elements ──

    def _check_size(self, path: Path, names: list[str]) -> None:
        """Raises JobFailure where the columns of a file unpack to more than they may."""

    def _unpacked(self, path: Path, name: str, whole: Any) -> Any:
        """A column of a part, as its type is: texts may have been read as a dictionary. Raises JobFailure."""
        return whole

    def column(self, name: str) -> tf.data.Dataset | None:
        if name not in self.forms:
            return None
        alone = copy.copy(self)  # with all that is known of the files
        alone.features, alone.labels, alone.weight, alone.named, alone.images = [name], None, None, True, {}
        return alone.dataset()

    def dataset(self) -> tf.data.Dataset:
        features, columns = self._columns()
        for path in self.paths:
            self._check_size(path, [column.name for column in columns])
        found = [self._parts(path) for path in self.paths]
        parts, counts = [one for one, _ in found], [count for _, count in found]
        if not any(counts):
            raise self._invalid(f"{', '.join(path.name for path in self.paths)}: no rows")
        read: Callable[[Path, Part], Sequence[Array]] = functools.partial(self._rows, columns=columns)
        first = next(index for index, of_file in enumerate(parts) if of_file)
        arrays, read = checked_first(read, self.paths[first], parts[first][0])

        def element(flat: list[tf.Tensor]) -> Any:
            tensors = {column.name: column.tensor([flat.pop(0) for _ in column.outputs]) for column in columns}
            return self._element(tensors, features)

        dtypes = [dtype for column in columns for dtype in column.outputs]
        dataset = stream(self.paths, parts, read, dtypes, element, counts=counts, size=self._size())
        if not self.images:
            return dataset
        starts = np.cumsum([0, *(len(column.outputs) for column in columns)])
        values = {column.name: arrays[start][0] for column, start in zip(columns, starts, strict=False)
                  if column.name in self.images}  # fmt: skip
        return with_images(dataset, self._decoders(values, features))

    def _decoders(self, firsts: dict[str, bytes], features: list[str]) -> dict[tuple[Any, ...], Any]:
        """Where an element holds images, and how they are decoded. `firsts`: the first of each column."""
        decoders: dict[tuple[Any, ...], Any] = {}
        for name, first in firsts.items():
            try:
                self.image_sizes[name] = self.images[name].shape_of(first)
            except BrokenImage as error:
                raise self._invalid(f"column {name!r}: the first image {error}") from error
            decode = functools.partial(self.images[name].tensor, size=self.image_sizes[name])
            if name in features:
                decoders[(0,) if self.features == name else (0, name)] = decode
            if self.labels == name or name in (self.labels or ()):
                decoders[(1,) if self.labels == name else (1, name)] = decode
        return decoders

    def explain(self, error: Exception) -> Exception | None:
        """The row of an image that cannot be decoded."""
        if FAILED not in str(error):
            return None
        for path in self.paths:
            for part in self._parts(path)[0]:
                for name, size in self.image_sizes.items():
                    ((values,), image) = self._rows(path, part, [self._column(name)]), self.images[name]
                    for row, value in enumerate(values):
                        try:
                            image.decoded(value, None if image.size is not None else size)
                        except BrokenImage as broken:
                            return self._invalid(f"{self._place(path, part, row)}: the image in {name!r} {broken}")
        return None

    def _rows(self, path: Path, part: Part, columns: list[Column]) -> list[Array]:
        own = self.types[path]
        names = [column.name for column in columns if column.name in own]
        try:
            table = self._table(path, part, names)
            arrays: list[Array] = []
            for column in columns:
                if column.name in own:
                    arrays += column.arrays(self._unpacked(path, column.name, table[column.name].combine_chunks()))
                else:
                    arrays.append(self._of_folder(path, column, table.num_rows))
            return arrays
        except Unfit as unfit:
            raise self._invalid(f"{self._place(path, part, unfit.position)}: {unfit.message}") from unfit
        except (ValueError, TypeError, KeyError, OSError, AttributeError, NotImplementedError) as error:
            raise self._invalid(f"{self._place(path, part, 0)}: {error}") from error  # pyarrow's are such errors too

    def column_dtype(self, name: str) -> str | None:
        return self._column(name).dtype if isinstance(self.forms.get(name), Form) else None

    def _of_folder(self, path: Path, column: Column, rows: int) -> Array:
        values = constant(self.partitions[column.name][path], column.dtype, rows, missing=self.missing)
        return values if column.classes is None else class_numbers(values, column.classes, missing=self.missing)

    def _found_classes(self) -> set[str]:
        (label,) = [self.labels] if isinstance(self.labels, str) else []
        column = self._label(label)
        if isinstance(form := self.forms[label], Form) and form.kind == "float":
            raise self._invalid(FRACTIONS.format(label))
        return distinct(self._rows(path, part, [column])[0] for path in self.paths for part in self._parts(path)[0])

    def _label(self, name: str) -> Column:
        """The label column as texts. Raises JobFailure."""
        if name not in self.forms:
            raise self._invalid(f"{self.paths[0].name} has no column {name!r}; it has {', '.join(self.forms)}")
        if self._column(name).shape:
            raise self._invalid(f"column {name!r} holds lists: classes are those of one value in each row")
        return Column(name, "string", (), explicit=True, missing=self.missing)

    def _element(self, tensors: dict[str, Any], features: list[str]) -> Any:
        if isinstance(self.features, str):
            x = tensors[self.features]
        elif self.named:
            x = {name: tensors[name] for name in features}
        else:
            x = tf.transpose(tf.stack([tensors[name] for name in features]))  # axis=1 is copied value by value
        if self.labels is None:
            return x
        y = tensors[self.labels] if isinstance(self.labels, str) else {name: tensors[name] for name in self.labels}
        return (x, y, tensors[self.weight]) if self.weight else (x, y)

    # ── which columns, of what dtype ──

    @functools.cached_property
    def partitions(self) -> dict[str, dict[Path, int | str | None]]:
        """Columns that the names of folders hold."""
        return partitions(self.paths)

    @functools.cached_property
    def forms(self) -> dict[str, Form | Unreadable]:
        """Each column of any file, with its form, or why a job cannot read it."""
        names = dict.fromkeys(name for types in self.types.values() for name in types)
        forms: dict[str, Form | Unreadable] = {}
        for name in names:
            try:
                lacking = next((path.name for path, types in self.types.items() if name not in types), None)
                if lacking is not None:
                    raise Unreadable(f"is not in {lacking}; a job can name the files that have it")
                form = joined({path.name: form_of(types[name]) for path, types in self.types.items()})
                _ = form.dtype
                forms[name] = form
            except Unreadable as unreadable:
                forms[name] = unreadable
        for name, values in self.partitions.items():
            known = [value for value in values.values() if value is not None]
            whole, complete = all(isinstance(value, int) for value in known), len(known) == len(values)
            form = Form("string" if not whole else "int64" if complete else "float")
            forms.setdefault(name, form if complete or self.missing else Unreadable("has folders without a value"))
        return forms

    def count(self) -> int:
        """The rows of all files. Raises JobFailure."""
        return sum(self.rows_by_file())

    def rows_by_file(self) -> list[int]:
        return [self._parts(path)[1] for path in self.paths]

    def describe(self) -> list[Description]:
        """All columns as a job reads them by default; those that it cannot read with the reason. Raises JobFailure."""
        for path, types in self.types.items():
            self._check_size(path, list(types))
        return [self._description(name, form) for name, form in self.forms.items()]

    def _description(self, name: str, form: Form | Unreadable) -> Description:
        if isinstance(form, Unreadable):
            kinds = [types[name] for types in self.types.values() if name in types]
            encoded = bool(kinds) and holds_images(kinds[0])
            reason = (
                f"holds images as bytes; a job reads them with images: {{{name!r}: {{}}}}" if encoded else str(form)
            )
            return Description(name, str(kinds[0]) if kinds else "null", (), reason)
        unfit = None
        try:
            for path, parts in zip(self.paths, self._examined_parts(), strict=True):
                for part in parts:
                    self._rows(path, part, [self._column(name)])
        except errors.JobFailure as failure:
            unfit = failure.message
        return Description(name, form.dtype, form.shape, unfit, form.unit)

    def _examined_parts(self) -> list[list[Part]]:
        """The parts whose values a description is made of."""
        size = sum(path.stat().st_size for path in self.paths) if self._size() is None else self._size() or 0
        found = [self._parts(path)[0] for path in self.paths]
        return found if size <= _EXAMINED_BYTES else [parts[:1] for parts in found]

    def _columns(self) -> tuple[list[str], list[Column]]:
        labels = [self.labels] if isinstance(self.labels, str) else self.labels or []
        features = [self.features] if isinstance(self.features, str) else self.features
        if features is None:
            features = self._default_features({*labels, self.weight, *self.indices})
        names = list(dict.fromkeys([*features, *labels, *([self.weight] if self.weight else [])]))
        for name in [*names, *self.dtypes, *self.shapes, *self.sparse, *self.images]:
            if name not in self.forms:
                raise self._invalid(f"{self.paths[0].name} has no column {name!r}; it has {', '.join(self.forms)}")
        columns = [self._column(name) for name in names]
        if self.by_name:
            if labels[0] in features:
                raise self._invalid(LABEL_OF_FEATURE.format(labels[0]))
            label = replace(self._label(labels[0]), classes=tuple(self.classes or self.class_names() or ()))
            columns = [label if one.name == labels[0] else one for one in columns]
        if isinstance(self.features, str) or self.named:
            return features, columns
        floatx = keras.config.floatx()
        vector = {name: self.dtypes.get(name, floatx) for name in features}
        wrong = [one for one in columns if one.name in vector and (one.shape or one.size or one.dtype == "string")]
        if wrong or len(set(vector.values())) > 1:
            what = f"{wrong[0].name!r} is not a number" if wrong else "the features have several dtypes"
            raise self._invalid(f"{what}: one vector takes numbers of one dtype; name one feature, or set named")
        return features, [replace(one, dtype=vector[one.name]) if one.name in vector else one for one in columns]

    def _default_features(self, others: set[str | None]) -> list[str]:
        for path, types in self.types.items():
            lacking = [name for name in self.types[self.paths[0]] if name not in types]
            more = [name for name in types if name not in self.types[self.paths[0]]]
            if lacking or more:
                what = f"has no column {lacking[0]!r}" if lacking else f"has another column {more[0]!r}"
                raise self._invalid(
                    f"{path.name} {what}, unlike {self.paths[0].name}: name the features, or files of one kind"
                )
        readable = [
            name for name, form in self.forms.items() if isinstance(form, Form) or name in {*self.sparse, *self.images}
        ]
        features = [name for name in readable if name not in others]
        if not features:
            raise self._invalid(f"{self.paths[0].name} has no column that can be a feature")
        return features

    def _column(self, name: str) -> Column:
        import pyarrow as pa

        form = self.forms[name]
        if name in self.images:
            kind = self.types[self.paths[0]].get(name)
            if not holds_images(kind):
                raise self._invalid(f"column {name!r} is {kind}: images are binary, or structs with a field 'bytes'")
            return ImageColumn(name, "string", ())
        if name in self.sparse:
            kind = self.types[self.paths[0]].get(name)
            if kind is None or not pa.types.is_struct(kind):
                raise self._invalid(f'column {name!r} is {kind}: a sparse one holds {{"indices": […], "values": […]}}')
            return Column(name, self.dtypes.get(name, keras.config.floatx()), (), self.sparse[name])
        if isinstance(form, Unreadable):
            raise self._invalid(f"column {name!r} {form}: choose features and labels without it")
        given = self.shapes.get(name, form.shape)
        if len(given) != len(form.shape):
            raise self._invalid(f"column {name!r} has {len(form.shape)} dimensions, the shape {given} {len(given)}")
        dtype = self.dtypes.get(name)
        if dtype is not None and not _is_dtype(dtype):
            raise self._invalid(
                f"dtypes of {name!r}: {dtype!r} is not a dtype; give float32, int64, bool or string, for example"
            )
        default = form.dtype
        if self.missing and not given and default != "string" and not default.startswith("float"):
            default = keras.config.floatx() if self._has_nulls(name) else default
        if not given:
            default = self.of_training(name, default)
        return Column(name, dtype or default, tuple(given), explicit=dtype is not None, missing=self.missing)

    def _invalid(self, message: str) -> errors.JobFailure:
        name = type(self).__name__.lower()
        return errors.JobFailure(errors.FailureCode.INVALID_DATA, message, location=errors.Location(component=name))


def _is_dtype(name: str) -> bool:
    try:
        dtype = tf.as_dtype(name)
    except TypeError:
        return False
    return bool(dtype.is_integer or dtype.is_floating or dtype.is_bool or dtype == tf.string)
