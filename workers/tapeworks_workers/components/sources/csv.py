"""`csv`: comma-separated files with a line of column names, read as a stream."""

from __future__ import annotations

import csv
import functools
import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import tensorflow as tf

from tapeworks import Files, Source, component, errors
from tapeworks_workers.components.sources.columns import values_of
from tapeworks_workers.components.sources.parts import PART_BYTES, Array, Part, lines_of, stream

DType = Literal["float32", "float64", "int32", "int64", "string"]
_CHECKED_BYTES = 8 * 1024 * 1024
_LONGEST_PART = 64 * 1024 * 1024


@component("csv")
class Csv(Source):
    """Rows of one or several files with the same header; `x` is a vector of the feature columns.

    Files are read one after another, in order of name, about 1 MiB at a time. The first 8 MiB of each are checked when
    the job starts, and say file and line of what is wrong; files smaller than that also let the job know how many rows
    there are. Empty lines are left out.

    Args:
        files: a glob, or several, below a data root.
        labels: the column y; a list of columns gives a vector; null: elements are x alone.
        features: columns of x, in this order; default: all that are neither labels nor weight.
        weight: the column of sample weights.
        named: x is a dict of scalars by column; needed where the features' dtypes differ.
        dtypes: column → dtype. Default: float32; labels: int64 where the first rows hold whole numbers.
        delimiter: between the fields.
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
    ) -> None:
        if weight is not None and labels is None:
            raise ValueError("a sample weight needs labels: the element is (x, y, sample_weight)")
        if len(delimiter) != 1 or delimiter in '"\r\n':
            raise ValueError(f"delimiter is one character between fields, not {delimiter!r}")
        self.paths = [Path(path) for path in files]
        self.labels = [labels] if isinstance(labels, str) else labels or []
        self.one_label = isinstance(labels, str)
        self.chosen = features
        self.weight = weight
        self.named = named
        self.dtypes = dict(dtypes or {})
        self.delimiter = delimiter

    def files(self) -> list[Path]:
        return self.paths

    def dataset(self) -> tf.data.Dataset:
        header = self._header()
        features = self.chosen or [name for name in header if name not in {*self.labels, self.weight}]
        columns = list(dict.fromkeys([*features, *self.labels, *([self.weight] if self.weight else [])]))
        self._check_columns(columns, header)
        dtypes = self._resolved(features, columns, header)
        counts = [self._checked(path, header, dtypes) for path in self.paths]
        parts = [self._parts(path) for path in self.paths]
        read = functools.partial(self._read, header=header, dtypes=dtypes)

        def element(flat: list[tf.Tensor]) -> Any:
            return self._element({name: tf.ensure_shape(flat.pop(0), [None]) for name in dtypes}, features)

        if all(count == 0 for count in counts):
            raise self._invalid(f"{', '.join(path.name for path in self.paths)}: no rows below the header")
        outputs = [tf.as_dtype(dtype) for dtype in dtypes.values()]
        return stream(self.paths, parts, read, outputs, element, counts=counts)

    def _element(self, columns: dict[str, tf.Tensor], features: list[str]) -> Any:
        x = {name: columns[name] for name in features} if self.named else _vectors(columns, features)
        if not self.labels:
            return x
        y = columns[self.labels[0]] if self.one_label else _vectors(columns, self.labels)
        return (x, y, columns[self.weight]) if self.weight else (x, y)

    # ── the parts ──

    def _parts(self, path: Path) -> list[Part]:
        """About 1 MiB each, cut where a row ends: at an end of line outside of quotes."""
        parts: list[Part] = []
        with path.open("rb") as file:
            start = self._row_end(path, file, 0, 0)  # of the header
            while end := self._row_end(path, file, start, PART_BYTES):
                parts.append((start, end))
                start = end
        if not parts and next(self._rows(path), None):
            raise self._invalid(f"{path.name}: its lines end in CR alone; they must end in LF or CR LF")
        return parts

    def _row_end(self, path: Path, file: BinaryIO, start: int, size: int) -> int:
        """Where the first row ends that ends at least so many bytes after the start of another; 0 at the file's end."""
        file.seek(start)
        quotes = file.read(size).count(b'"')
        while line := file.readline():
            quotes += line.count(b'"')
            if quotes % 2 == 0:
                break
            if file.tell() - start > _LONGEST_PART:
                raise self._invalid(f"{lines_of(path, (start, 0))}: a quotation mark that nothing closes")
        return file.tell() if file.tell() > start else 0

    def _read(self, path: Path, part: Part, header: list[str], dtypes: dict[str, DType]) -> list[Array]:
        import pyarrow as pa
        import pyarrow.csv

        with path.open("rb") as file:
            file.seek(part[0])
            block = file.read(part[1] - part[0])
        types = {name: pa.binary() if dtype == "string" else getattr(pa, dtype)() for name, dtype in dtypes.items()}
        try:
            table = pyarrow.csv.read_csv(
                io.BytesIO(block),
                pyarrow.csv.ReadOptions(use_threads=False, column_names=header, block_size=len(block) + 1),
                pyarrow.csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
                pyarrow.csv.ConvertOptions(column_types=types, include_columns=list(dtypes), null_values=[]),
            )
        except ValueError as error:  # pyarrow's are
            raise self._invalid(f"{lines_of(path, part)}: {error}") from error
        return [values_of(table[name], dtype) for name, dtype in dtypes.items()]

    # ── what is checked before the first row is trained on ──

    def _header(self) -> list[str]:
        headers = {path: self._names(path) for path in self.paths}
        first = headers[self.paths[0]]
        for path, names in headers.items():
            if names != first:
                raise self._invalid(f"the header of {path.name} is not that of {self.paths[0].name}")
        return first

    def _names(self, path: Path) -> list[str]:
        _, names = next(self._lines(path), (0, []))
        if not names:
            raise self._invalid(f"{path.name} is empty: its first line names the columns")
        if len(set(names)) < len(names):
            raise self._invalid(f"the header of {path.name} names a column twice")
        return names

    def _check_columns(self, columns: list[str], header: list[str]) -> None:
        for name in [*columns, *self.dtypes]:
            if name not in header:
                raise self._invalid(f"{self.paths[0].name} has no column {name!r}; it has {', '.join(header)}")

    def _resolved(self, features: list[str], columns: list[str], header: list[str]) -> dict[str, DType]:
        dtypes: dict[str, DType] = {name: self.dtypes.get(name, "float32") for name in columns}
        undecided = [name for name in self.labels if name not in self.dtypes]
        if undecided and self._all(int, undecided, header):
            dtypes.update(dict.fromkeys(undecided, "int64"))
        for group, what in ((features, "features"), ([] if self.one_label else self.labels, "labels")):
            kinds = {dtypes[name] for name in group}
            if len(kinds) > 1 and not (self.named and what == "features"):
                raise self._invalid(f"the {what} have dtypes {', '.join(sorted(kinds))}: one vector takes one dtype")
        return dtypes

    def guessed(self) -> dict[str, DType]:
        """Each column as the first rows hold it: whole numbers, numbers, else texts."""
        header = self._header()
        dtypes: dict[str, DType] = {}
        for name in header:
            whole, number = self._all(int, [name], header), self._all(float, [name], header)
            dtypes[name] = "int64" if whole else "float32" if number else "string"
        return dtypes

    def _all(self, parser: type[int] | type[float], names: list[str], header: list[str]) -> bool:
        """Whether the first hundred rows of the first file hold such numbers in these columns."""
        at = [header.index(name) for name in names]
        for _, (_, row) in zip(range(100), self._rows(self.paths[0]), strict=False):
            if len(row) == len(header) and not all(_is(parser, row[index]) for index in at):
                return False
        return True

    def _rows(self, path: Path) -> Iterator[tuple[int, list[str]]]:
        """Line number and fields of each row below the header."""
        return itertools.islice(self._lines(path), 1, None)

    def _lines(self, path: Path) -> Iterator[tuple[int, list[str]]]:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, delimiter=self.delimiter)
            try:
                for row in reader:
                    if row:  # empty lines are no rows
                        yield reader.line_num, row
            except (UnicodeDecodeError, csv.Error) as error:
                raise self._invalid(f"{path.name}, after line {reader.line_num}: {error}") from error

    def _checked(self, path: Path, header: list[str], dtypes: dict[str, DType]) -> int | None:
        """How many rows the file has; None where it is too large to look at all of it."""
        parsers = {
            header.index(name): float if dtype.startswith("float") else int
            for name, dtype in dtypes.items()
            if dtype != "string"
        }
        count, size = 0, 0
        for line, row in self._rows(path):
            if len(row) != len(header):
                raise self._invalid(f"{path.name}, line {line}: {len(row)} fields under {len(header)} columns")
            for index, parser in parsers.items():
                if not _is(parser, row[index]):
                    raise self._invalid(
                        f"{path.name}, line {line}: column {header[index]!r} holds {row[index]!r}, "
                        f"not {'a number' if parser is float else 'a whole number'}"
                    )
            count += 1
            size += sum(map(len, row)) + len(row)
            if size > _CHECKED_BYTES:
                return None
        return count

    def _invalid(self, message: str) -> errors.JobFailure:
        return errors.JobFailure(errors.FailureCode.INVALID_DATA, message, location=errors.Location(component="csv"))


def _vectors(columns: dict[str, tf.Tensor], names: list[str]) -> tf.Tensor:
    return tf.stack([columns[name] for name in names], axis=1)


def _is(parser: type[int] | type[float], text: str) -> bool:
    try:
        parser(text)
    except ValueError:
        return False
    return "_" not in text and text.lstrip()[0] != "+"  # Python reads 1_000 and +1, pyarrow does not
