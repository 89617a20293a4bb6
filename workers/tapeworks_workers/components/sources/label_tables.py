"""Labels of files from a table beside them: CSV with a header, or JSON lines, with a column that names the file.

`read(tables, files, …)` gives the label of each file: numbers where every label is one, else texts. A file is named by
its path below the table's folder, or by its name alone where only one file has it.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*)")
_SHOWN = 3
Label = str | int | float


class BrokenTable(ValueError):
    """A table that does not label the files; the message names table and row."""


@dataclass(frozen=True)
class Row:
    """The cells that are asked for, and where they are."""

    file: str
    labels: list[Any]
    place: str
    folder: Path


def read(
    tables: Sequence[Path], files: Sequence[Path], *, file_column: str, label_columns: Sequence[str]
) -> list[list[Label]]:
    """The labels of each file, one for each column. Raises BrokenTable."""
    by_path = {path: index for index, path in enumerate(files)}
    once = {name for name, count in Counter(path.name for path in files).items() if count == 1}
    by_name = {path.name: index for index, path in enumerate(files) if path.name in once}
    found: dict[int, Row] = {}
    for table in tables:
        for row in _rows(table, file_column, label_columns):
            index = by_path.get((row.folder / row.file).resolve(), by_name.get(Path(row.file).name))
            if index is None:
                continue  # a row of another split
            known = found.setdefault(index, row)
            if known.labels != row.labels:
                raise BrokenTable(f"{row.place}: {row.file!r} has another label than in {known.place}")
    missing = [path for index, path in enumerate(files) if index not in found]
    if missing:
        shown = ", ".join(f"{path.parent.name}/{path.name}" for path in missing[:_SHOWN])
        raise BrokenTable(
            f"{len(missing)} of {len(files)} files have no row in {', '.join(table.name for table in tables)}: {shown}"
        )
    rows = [found[index] for index in range(len(files))]
    columns = [_typed([row.labels[column] for row in rows]) for column in range(len(label_columns))]
    return [list(labels) for labels in zip(*columns, strict=True)]


def _typed(cells: list[Any]) -> list[Label]:
    """Integers, else floats, where every cell is one; else texts."""
    if all(isinstance(cell, int) or (isinstance(cell, str) and _INTEGER.fullmatch(cell)) for cell in cells):
        return [int(cell) for cell in cells]
    if not any(isinstance(cell, str) and _leading_zero(cell) for cell in cells):
        try:
            return [float(cell) for cell in cells]
        except ValueError:
            pass  # texts
    return [str(cell) for cell in cells]


def _leading_zero(cell: str) -> bool:
    """Whether a cell is a code of digits, such as 007."""
    return len(cell) > 1 and cell.isdigit() and cell.startswith("0")


def _rows(table: Path, file_column: str, label_columns: Sequence[str]) -> Iterator[Row]:
    for place, values in _of_csv(table) if table.suffix.lower() == ".csv" else _of_json_lines(table):
        for column in (file_column, *label_columns):
            if column not in values:
                raise BrokenTable(f"{place}: no column {column!r}; it has {', '.join(map(repr, values))}")
        labels = [values[column] for column in label_columns]
        for column, label in zip(label_columns, labels, strict=True):
            if label is None or label == "" or not isinstance(label, str | int | float):
                raise BrokenTable(f"{place}: the label {column!r} is {label!r}, neither text nor number")
        if not isinstance(values[file_column], str) or not values[file_column]:
            raise BrokenTable(f"{place}: {file_column!r} names no file: {values[file_column]!r}")
        yield Row(values[file_column], labels, place, table.parent.resolve())


def _of_csv(table: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, None)
            if header is None:
                raise BrokenTable(f"{table.name} is empty")
            for cells in reader:
                if not cells:
                    continue
                place = f"{table.name}, line {reader.line_num}"
                if len(cells) != len(header):
                    raise BrokenTable(f"{place}: {len(cells)} fields under {len(header)} columns")
                yield place, dict(zip(header, cells, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise BrokenTable(f"{table.name} cannot be read as CSV in UTF-8: {error}") from error


def _of_json_lines(table: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with table.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                place = f"{table.name}, line {number}"
                values = json.loads(line)
                if not isinstance(values, dict):
                    raise BrokenTable(f"{place}: no JSON object")
                yield place, values
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BrokenTable(f"{table.name} cannot be read as JSON lines in UTF-8: {error}") from error
