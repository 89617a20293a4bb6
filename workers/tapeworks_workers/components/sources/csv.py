"""`csv`: rows of texts between delimiters, read as a stream."""

from __future__ import annotations

import copy
import csv
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import tensorflow as tf

from tapeworks import Files, component, errors
from tapeworks_workers.components.sources.class_labels import (
    FRACTIONS,
    LABEL_OF_FEATURE,
    Classes,
    NamedLabels,
    class_numbers,
    distinct,
)
from tapeworks_workers.components.sources.columns import Description
from tapeworks_workers.components.sources.csv_columns import BadRow, Fields, Kind, Values, Wanted
from tapeworks_workers.components.sources.csv_rows import CsvFile, Dialect, Unclosed, check_characters
from tapeworks_workers.components.sources.partitions import constant, partitions
from tapeworks_workers.components.sources.parts import PART_BYTES, Part, checked_first, sampled, stream
from tapeworks_workers.components.sources.safe_casts import Array
from tapeworks_workers.components.sources.text_files import BOM, TextFile, Undecodable

DType = Literal["float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint64", "bool", "string"]
_HEADER_BYTES = 64 * 1024
_LONGEST_HEADER = 16 * 1024 * 1024


@component("csv")
class Csv(NamedLabels):
    """Rows of one or several files; `x` is a vector of the feature columns, or with `named` a dict.

    Files are read one after another, in order of name, about 1 MiB at a time; `.gz` files too. Quotation marks count as
    in RFC 4180, and rows end with LF, CR LF or CR; empty lines are left out. When the job starts all rows are counted,
    and columns of integers, numbers, booleans and texts are told apart by rows of all files. A value that does not
    fit is refused with file, line and column. Columns in the names of folders (`country=de/a.csv`) come after
    those of the file. A first column without a name is pandas' index: it is left out unless `features` has it, as
    `Unnamed: 0`.

    Args:
        files: a glob, or several, below a data root.
        labels: the column y; a list of columns gives a vector; null: elements are x alone.
        features: columns of x, in this order; default: all that are neither labels nor weight.
        weight: the column of sample weights.
        named: x is a dict of scalars by column, each with a dtype of its own.
        dtypes: column → dtype. Default: integers int64, numbers the job's float, true and false bool, other texts
            string; in the vector all are the job's float.
        delimiter: between the fields.
        decimal: the decimal point of numbers.
        thousands: between the thousands of numbers.
        quotechar: around fields that hold delimiters or line ends.
        comment: the character from which on the rest of a line is left out.
        encoding: of the files, as Python names it.
        header: whether the first line names the columns.
        names: of the columns where there is no header; default: f0, f1, ….
        nulls: of a field without a value (empty, or one of pandas' spellings: NA, NaN, null, …): "fail" refuses it in a
            column of numbers or booleans; with "missing" it is NaN there (integers and booleans become the job's
            float) and "" in a column of texts.
        na_values: texts that are read as NaN in columns of numbers; with `nulls` "missing": the only ones that are
            missing, in columns of texts too.
        true_values: texts that are true, besides True, TRUE and true.
        false_values: texts that are false, besides False, FALSE and false.
        classes: of a label of texts, integers or booleans: y is int64, its place in this list; "auto": the texts of the
            training split in order (integers by size), which are read when the job starts.
    """

    def __init__(
        self,
        files: Files,
        labels: str | list[str] | None = None,
        features: list[str] | None = None,
        weight: str | None = None,
        named: bool = False,
        dtypes: dict[str, DType] | None = None,
        delimiter: str = ",",
        decimal: str = ".",
        thousands: str | None = None,
        quotechar: str = '"',
        comment: str | None = None,
        encoding: str = "utf-8",
        header: bool = True,
        names: list[str] | None = None,
        na_values: list[str] | None = None,
        true_values: list[str] | None = None,
        false_values: list[str] | None = None,
        nulls: Literal["fail", "missing"] = "fail",
        classes: Classes = None,
    ) -> None:
        if weight is not None and labels is None:
            raise ValueError("a sample weight needs labels: the element is (x, y, sample_weight)")
        if names is not None and header:
            raise ValueError("names are those of files without a header: set header to false")
        check_characters(
            delimiter=delimiter, quotechar=quotechar, comment=comment, decimal=decimal, thousands=thousands
        )
        self.paths = [Path(path) for path in files]
        self.labels = [labels] if isinstance(labels, str) else labels or []
        self.one_label = isinstance(labels, str)
        self.chosen = features
        self.weight = weight
        self.named = named
        self.dtypes = dict(dtypes or {})
        self.header = header
        self.names = names
        self.dialect = Dialect(delimiter, quotechar, comment)
        self.fields = Fields(
            self.dialect, Values.given(decimal, thousands, na_values, true_values, false_values, nulls == "missing")
        )
        self.number_classes(classes, labels, self.dtypes, missing=nulls == "missing")
        try:
            self.texts = {path: TextFile(path, encoding) for path in self.paths}
        except LookupError as error:
            raise ValueError(f"encoding: {error}; give the name of a Python codec, as latin-1 or cp1252") from error

    def files(self) -> list[Path]:
        return self.paths

    def feature_names(self) -> list[str] | None:
        return None if self.named else self.chosen if self.chosen is not None else self._default_features()

    def left_out(self) -> list[str]:
        left_out = sorted(self._left_out() - {*self.labels, self.weight}) if self.chosen is None else []
        return [
            f"column {name!r} is left out: the header gives it no name, as for pandas' index; name it in features "
            "to use it"
            for name in left_out
        ]

    def column(self, name: str) -> tf.data.Dataset | None:
        if name not in self.kinds:
            return None
        alone = copy.copy(self)  # with all that is known of the files
        alone.chosen, alone.labels, alone.one_label, alone.weight, alone.named = [name], [], False, None, True
        return alone.dataset()

    def dataset(self) -> tf.data.Dataset:
        features = self.chosen if self.chosen is not None else self._default_features()
        columns = list(dict.fromkeys([*features, *self.labels, *([self.weight] if self.weight else [])]))
        self._check_columns([*columns, *self.dtypes])
        wanted = self._wanted(features, columns)
        parts = [[(part.start, part.end) for part in file.parts] for file in self.opened.values()]
        counts = self.rows_by_file()
        if not any(counts):
            raise self._invalid(f"{', '.join(path.name for path in self.paths)}: no rows below the header")
        read: Callable[[Path, Part], Sequence[Array]] = functools.partial(self._read, wanted=wanted)
        first = next(index for index, of_file in enumerate(parts) if of_file)
        _, read = checked_first(read, self.paths[first], parts[first][0])

        def element(flat: list[tf.Tensor]) -> Any:
            return self._element({name: tf.ensure_shape(flat.pop(0), [None]) for name in wanted}, features)

        outputs = [tf.as_dtype(one.output) for one in wanted.values()]
        size = sum(end - start for of_file in parts for start, end in of_file)
        return stream(self.paths, parts, read, outputs, element, counts=counts, size=size)

    def _element(self, columns: dict[str, tf.Tensor], features: list[str]) -> Any:
        x = {name: columns[name] for name in features} if self.named else _vectors(columns, features)
        if not self.labels:
            return x
        y = columns[self.labels[0]] if self.one_label else _vectors(columns, self.labels)
        return (x, y, columns[self.weight]) if self.weight else (x, y)

    def _read(self, path: Path, part: Part, wanted: Mapping[str, Wanted]) -> list[Array]:
        file = self.opened[path]
        rows = self._rows_of[path][part]
        text = self._text(path, part)
        folders = {name: one for name, one in wanted.items() if name in self.partitions and name not in file.names}
        fields = {name: one for name, one in wanted.items() if name not in folders}
        try:
            found = self.fields.arrays(text, file.names, fields, rows) if fields else {}
        except BadRow as bad:
            raise self._bad_row(path, part, bad) from bad
        for name, one in folders.items():
            try:
                missing = self.fields.values.missing_texts
                found[name] = constant(self.partitions[name][path], one.dtype, rows, missing=missing)
                if one.classes is not None:
                    found[name] = class_numbers(found[name], one.classes, missing=missing)
            except (ValueError, TypeError) as error:
                raise self._invalid(f"{path.name}: column {name!r}, from the name of its folder: {error}") from error
        return [found[name] for name in wanted]

    # ── what the files hold ──

    @functools.cached_property
    def opened(self) -> dict[Path, CsvFile]:
        """Each file with its names and parts. Raises JobFailure."""
        return {path: self._open(path) for path in self.paths}

    @functools.cached_property
    def _rows_of(self) -> dict[Path, dict[Part, int]]:
        return {path: {(part.start, part.end): part.count for part in file.parts} for path, file in self.opened.items()}

    @functools.cached_property
    def partitions(self) -> dict[str, dict[Path, int | str | None]]:
        """Columns that the names of folders hold."""
        return partitions(self.paths)

    @functools.cached_property
    def kinds(self) -> dict[str, Kind]:
        """What each column of any file holds, by rows of all files. Raises JobFailure."""
        kinds: dict[str, Kind] = {}
        chosen = sampled([file.parts for file in self.opened.values()], lambda part: part.end - part.start)
        for (path, file), parts in zip(self.opened.items(), chosen, strict=True):
            for part in parts:
                place = (part.start, part.end)
                try:
                    found = self.fields.kinds(self._text(path, place), file.names)
                except BadRow as bad:
                    raise self._bad_row(path, place, bad) from bad
                for name, kind in found.items():
                    kinds[name] = kinds[name].joined(kind) if name in kinds else kind
            for name in file.names:
                kinds.setdefault(name, Kind("blank"))
        for name, values in self.partitions.items():
            whole = all(isinstance(value, int) for value in values.values() if value is not None)
            kinds.setdefault(name, Kind("integer" if whole else "string", None in values.values()))
        return kinds

    def count(self) -> int:
        """The rows of all files. Raises JobFailure."""
        return sum(self.rows_by_file())

    def rows_by_file(self) -> list[int]:
        return [sum(part.count for part in file.parts) for file in self.opened.values()]

    def describe(self) -> list[Description]:
        """All columns as a job reads them by default; those that it cannot read with the reason."""
        return [Description(name, kind.dtype, (), self._unreadable(name, kind)) for name, kind in self.kinds.items()]

    def _unreadable(self, name: str, kind: Kind) -> str | None:
        for path, file in self.opened.items():
            if name not in file.names and name not in self.partitions:
                return f"is not in {path.name}; a job can name the files that have it"
        if kind.name == "binary":
            return "is not UTF-8; give the source its encoding, as latin-1"
        if kind.blanks and kind.name in ("integer", "number", "boolean"):
            return self._blanks_left(name, kind)
        return None

    def _blanks_left(self, name: str, kind: Kind) -> str | None:
        """Why a column with blanks cannot be read: the first that is not named as missing."""
        if not self.fields.values.na_values:
            return 'has rows without a value; "nulls": "missing" reads them as NaN'
        chosen = sampled([file.parts for file in self.opened.values()], lambda part: part.end - part.start)
        try:
            for path, parts in zip(self.opened, chosen, strict=True):
                for part in parts:
                    self._read(path, (part.start, part.end), {name: Wanted(kind.dtype, kind)})
        except errors.JobFailure as failure:
            return failure.message
        return None

    def _open(self, path: Path) -> CsvFile:
        text = self.texts[path]
        try:
            head, start = self._first_row(text)
            fields = next(csv.reader(io.StringIO(head, newline=""), delimiter=self.dialect.delimiter,
                                     quotechar=self.dialect.quotechar), [])  # fmt: skip
            if not fields:
                raise self._invalid(f"{path.name} is empty: its first line names the columns")
            names, unnamed = self._names(path, fields)
            parts = list(self.dialect.parts(text.blocks(PART_BYTES), start))
        except (Undecodable, csv.Error) as error:
            raise self._invalid(f"{path.name} {error}") from error
        except Unclosed as error:
            raise self._invalid(f"{path.name}, line {text.line_at(error.offset)}: {error}") from error
        return CsvFile(text, names, unnamed, parts)

    def _first_row(self, text: TextFile) -> tuple[str, int]:
        """The first row that is not empty, and where the rows of values begin."""
        head, start = b"", 0
        for block in text.blocks(_HEADER_BYTES):
            head += block
            ends, _ = self.dialect.breaks(head, final=False)
            if len(self.dialect.starts(head[: ends[-1]] if len(ends) else head)) > 1 or len(head) > _LONGEST_HEADER:
                break
        if head.startswith(BOM):
            head, start = head[len(BOM) :], len(BOM)
        begins = self.dialect.starts(head)
        if not len(begins):
            return "", 0
        end = int(begins[1]) if len(begins) > 1 else len(head)
        row = self.dialect.without_comments(head[int(begins[0]) : end]).rstrip(b"\r\n")
        try:
            return row.decode(), start + end if self.header else start
        except UnicodeDecodeError as error:
            line = text.line_at(start + int(begins[0]))
            raise Undecodable(f"is not UTF-8 in line {line}: {error.reason}; give its encoding, as latin-1") from error

    def _names(self, path: Path, fields: list[str]) -> tuple[list[str], list[str]]:
        """The columns' names as pandas gives them, and which of them have none in the header."""
        if not self.header:
            names = self.names or [f"f{index}" for index in range(len(fields))]
            if len(names) != len(fields):
                raise self._invalid(f"{path.name} has {len(fields)} columns, {len(names)} names were given")
            return names, []
        names, unnamed = [], []
        for index, field in enumerate(fields):
            name = field or f"Unnamed: {index}"
            copies = 0
            while name in names:
                copies += 1
                name = f"{field}.{copies}"
            names.append(name)
            unnamed += [] if field else [name]
        return names, unnamed

    def _left_out(self) -> set[str]:
        """Columns that are no features unless they are named: pandas' index, and what trailing delimiters make."""
        found = set()
        for file in self.opened.values():
            first = file.names[0]
            if first in file.unnamed or (first == "Unnamed: 0" and self.kinds[first].name == "integer"):
                found.add(first)
            found |= {name for name in file.unnamed if self.kinds[name].name == "blank"}
        return found

    def _default_features(self) -> list[str]:
        first, *others = self.opened.items()
        for path, file in others:
            if set(file.names) != set(first[1].names):
                raise self._invalid(
                    f"the header of {path.name} is not that of {first[0].name}: name the features, or files of one kind"
                )
        others_of_x = {*self.labels, self.weight, *self._left_out()}
        names = [name for name in [*first[1].names, *self.partitions] if name not in others_of_x]
        return list(dict.fromkeys(names))

    def _check_columns(self, columns: Sequence[str]) -> None:
        for path, file in self.opened.items():
            known = list(dict.fromkeys([*file.names, *self.partitions]))
            for name in columns:
                if name not in known:
                    raise self._invalid(f"{path.name} has no column {name!r}; it has {', '.join(known)}")

    def _wanted(self, features: list[str], columns: list[str]) -> dict[str, Wanted]:
        floatx = str(keras.config.floatx())
        dtypes = {name: self.dtypes.get(name) or self.of_training(name, self.kinds[name].dtype) for name in columns}
        for group, together in ((features, not self.named), (self.labels, not self.one_label)):
            undecided = [name for name in group if name not in self.dtypes]
            if together and not (group is self.labels and {dtypes[name] for name in undecided} == {"int64"}):
                dtypes.update(dict.fromkeys(undecided, floatx))
            kinds = {dtypes[name] for name in group}
            if together and len(kinds) > 1:
                what = "features" if group is features else "labels"
                raise self._invalid(f"the {what} have dtypes {', '.join(sorted(kinds))}: one vector takes one dtype")
        if self.weight and self.weight not in self.dtypes:
            dtypes[self.weight] = floatx
        wanted = {name: Wanted(dtype, self.kinds[name], name in self.dtypes) for name, dtype in dtypes.items()}
        if self.by_name:
            (label,) = self.labels
            if label in features:
                raise self._invalid(LABEL_OF_FEATURE.format(label))
            wanted[label] = Wanted("string", self.kinds[label], classes=tuple(self.classes or self.class_names() or ()))
        return wanted

    def column_dtype(self, name: str) -> str | None:
        return self.dtypes.get(name) or (self.kinds[name].dtype if name in self.kinds else None)

    def _found_classes(self) -> set[str]:
        (label,) = self.labels
        self._check_columns([label])
        if self.kinds[label].name == "number":
            raise self._invalid(FRACTIONS.format(label))
        wanted = {label: Wanted("string", self.kinds[label])}
        return distinct(
            self._read(path, (part.start, part.end), wanted)[0]
            for path, file in self.opened.items()
            for part in file.parts
        )

    # ── places ──

    def _text(self, path: Path, part: Part) -> bytes:
        try:
            return self.texts[path].read(*part)
        except Undecodable as error:
            raise self._invalid(f"{path.name} {error}") from error

    def _bad_row(self, path: Path, part: Part, bad: BadRow) -> errors.JobFailure:
        begins = self.dialect.starts(self._text(path, part))
        offset = part[0] + (int(begins[bad.row]) if bad.row < len(begins) else 0)
        return self._invalid(f"{path.name}, line {self.texts[path].line_at(offset)}: {bad.message}")

    def _invalid(self, message: str) -> errors.JobFailure:
        return errors.JobFailure(errors.FailureCode.INVALID_DATA, message, location=errors.Location(component="csv"))


def _vectors(columns: dict[str, tf.Tensor], names: list[str]) -> tf.Tensor:
    return tf.transpose(tf.stack([columns[name] for name in names]))  # axis=1 is copied value by value
