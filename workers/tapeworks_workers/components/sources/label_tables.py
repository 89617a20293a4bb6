"""Labels of files from a table beside them: CSV with a header, or JSON lines, with a column that names the file.

`read(tables, files, …)` gives the label of each file: numbers where every label is one, else texts. A file is named by
its path below the table's folder, or by its name alone where only one file has it.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*)")
_SHOWN = 3
Label = str | int | float


class BrokenTable(ValueError):
    """A table that does not label the files; the message names table and row."""


@dataclass(frozen=True)
class Cells:
    """A row: the file that it is about, its values by column, and where it is."""

    file: str
    values: dict[str, Any]
    place: str
    folder: Path


def read(
    tables: Sequence[Path], files: Sequence[Path], *, file_column: str, label_columns: Sequence[str]
) -> list[list[Label]]:
    """The labels of each file, one for each column. Raises BrokenTable."""
    find = files_by_name(files)
    found: dict[int, tuple[list[Any], str]] = {}
    for row in cells(tables, file_column, label_columns):
        labels = [row.values[column] for column in label_columns]
        for column, label in zip(label_columns, labels, strict=True):
            if label is None or label == "" or not isinstance(label, str | int | float):
                raise BrokenTable(f"{row.place}: the label {column!r} is {label!r}, neither text nor number")
        index = find(row)
        if index is None:
            continue  # a row of another split
        known, place = found.setdefault(index, (labels, row.place))
        if known != labels:
            raise BrokenTable(f"{row.place}: {row.file!r} has another label than in {place}")
    missing = [path for index, path in enumerate(files) if index not in found]
    if missing:
        shown = ", ".join(f"{path.parent.name}/{path.name}" for path in missing[:_SHOWN])
        raise BrokenTable(
            f"{len(missing)} of {len(files)} files have no row in {', '.join(table.name for table in tables)}: {shown}"
        )
    rows = [found[index][0] for index in range(len(files))]
    columns = [typed([labels[column] for labels in rows]) for column in range(len(label_columns))]
    return [list(labels) for labels in zip(*columns, strict=True)]


def files_by_name(files: Sequence[Path]) -> Callable[[Cells], int | None]:
    """From a row to the place of its file in `files`; None where it is about another."""
    by_path = {path: index for index, path in enumerate(files)}
    once = {name for name, count in Counter(path.name for path in files).items() if count == 1}
    by_name = {path.name: index for index, path in enumerate(files) if path.name in once}
    return lambda row: by_path.get((row.folder / row.file).resolve(), by_name.get(Path(row.file).name))


def typed(given: list[Any]) -> list[Label]:
    """Integers, else floats, where every cell is one; else texts."""
    if all(isinstance(cell, int) or (isinstance(cell, str) and _INTEGER.fullmatch(cell)) for cell in given):
        return [int(cell) for cell in given]
    if not any(isinstance(cell, str) and _leading_zero(cell) for cell in given):
        try:
            return [float(cell) for cell in given]
        except ValueError:
            pass  # texts
    return [str(cell) for cell in given]


def _leading_zero(cell: str) -> bool:
    """Whether a cell is a code of digits, such as 007."""
    return len(cell) > 1 and cell.isdigit() and cell.startswith("0")


def cells(tables: Sequence[Path], file_column: str, columns: Sequence[str]) -> Iterator[Cells]:
    """The rows of the tables, which have these columns. Raises BrokenTable."""
    for table in tables:
        for place, values in _of_csv(table) if table.suffix.lower() == ".csv" else _of_json_lines(table):
            for column in (file_column, *columns):
                if column not in values:
                    raise BrokenTable(f"{place}: no column {column!r}; it has {', '.join(map(repr, values))}")
            file = values[file_column]
            if not isinstance(file, str) or not file:
                raise BrokenTable(f"{place}: {file_column!r} names no file: {file!r}")
            yield Cells(file, values, place, table.parent.resolve())


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
                    raise BrokenTable(f"{place}: not a JSON object")
                yield place, values
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BrokenTable(f"{table.name} cannot be read as JSON lines in UTF-8: {error}") from error
