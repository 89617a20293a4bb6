"""`csv`: comma-separated files with a line of column names, read as a stream."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import tensorflow as tf

from tapeworks import Files, Source, component, errors

DType = Literal["float32", "float64", "int32", "int64", "string"]
_CHECKED_BYTES = 8 * 1024 * 1024


@component("csv")
class Csv(Source):
    """Rows of one or several files with the same header; `x` is a vector of the feature columns.

    Files are read one after another, in order of name. The first 8 MiB of each are checked when the job starts, and
    say file and line of what is wrong; files smaller than that also let the job know how many rows there are.

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
        if len(delimiter) != 1:
            raise ValueError(f"delimiter is one character, not {delimiter!r}")
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
        rows = [self._checked(path, header, dtypes) for path in self.paths]
        order = sorted(columns, key=header.index)  # CsvDataset gives them in the file's order, as it must be asked
        read = tf.data.experimental.CsvDataset(
            [str(path) for path in self.paths],
            [tf.dtypes.as_dtype(dtypes[name]) for name in order],
            header=True,
            field_delim=self.delimiter,
            select_cols=[header.index(name) for name in order],
        )
        dataset = read.map(lambda *row: self._element(dict(zip(order, row, strict=True)), features))
        counted = [count for count in rows if count is not None]
        if len(counted) < len(rows):
            return dataset
        if not sum(counted):
            raise self._invalid(f"{', '.join(path.name for path in self.paths)}: no rows below the header")
        return dataset.apply(tf.data.experimental.assert_cardinality(sum(counted)))

    def _element(self, row: dict[str, Any], features: list[str]) -> Any:
        x = {name: row[name] for name in features} if self.named else tf.stack([row[name] for name in features])
        if not self.labels:
            return x
        y = row[self.labels[0]] if self.one_label else tf.stack([row[name] for name in self.labels])
        return (x, y, row[self.weight]) if self.weight else (x, y)

    # ── what is checked before the first row is trained on ──

    def _header(self) -> list[str]:
        headers = {path: self._names(path) for path in self.paths}
        first = headers[self.paths[0]]
        for path, names in headers.items():
            if names != first:
                raise self._invalid(f"the header of {path.name} is not that of {self.paths[0].name}")
        return first

    def _names(self, path: Path) -> list[str]:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            names = next(csv.reader(lines, delimiter=self.delimiter), None)
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
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, delimiter=self.delimiter)
            next(reader, None)
            for row in reader:
                yield reader.line_num, row

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


def _is(parser: type[int] | type[float], text: str) -> bool:
    try:
        parser(text)
    except ValueError:
        return False
    return "_" not in text  # Python reads 1_000, TensorFlow does not
