"""Boxes of images, from a table: `(n, 4)` numbers and n labels for each image, n from 0 on.

| the table has | `boxes` | a row is |
|---|---|---|
| a column of lists of four numbers, and one of labels | its name | an image |
| four columns of numbers, and one of a label | their names | a box; an image has a row for each |
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tapeworks_workers.components.sources.label_tables import BrokenTable, Cells, Label, cells, files_by_name, typed

Boxes = tuple[np.ndarray, list[Label]]
"""Of one image: `(n, 4)` floats, and n labels."""


def read(
    tables: Sequence[Path], files: Sequence[Path], *, file_column: str, boxes: str | list[str], label_column: str
) -> list[Boxes]:
    """The boxes of each file. Raises BrokenTable."""
    find = files_by_name(files)
    columns = [boxes] if isinstance(boxes, str) else boxes
    found: dict[int, list[tuple[list[float], Any]]] = {}
    places: dict[int, str] = {}
    for row in cells(tables, file_column, [*columns, label_column]):
        index = find(row)
        if index is None:
            continue  # a row of another split
        if isinstance(boxes, str):
            if index in places:
                raise BrokenTable(f"{row.place}: {row.file!r} has a row already, {places[index]}")
            found[index] = _of_image(row, boxes, label_column)
        else:
            label = _label(row.values[label_column], row, label_column)
            found.setdefault(index, []).append((_numbers([row.values[name] for name in boxes], row, boxes), label))
        places[index] = row.place
    missing = [f"{path.parent.name}/{path.name}" for index, path in enumerate(files) if index not in found]
    if missing:
        raise BrokenTable(
            f"{len(missing)} of {len(files)} files have no row in {', '.join(table.name for table in tables)}: "
            f"{', '.join(missing[:3])}; in JSON lines, an empty list means no box"
        )
    labels = iter(typed([label for index in range(len(files)) for _, label in found[index]]))
    return [
        (np.array([box for box, _ in found[index]], float).reshape(-1, 4), [next(labels) for _ in found[index]])
        for index in range(len(files))
    ]


def _of_image(row: Cells, boxes: str, label_column: str) -> list[tuple[list[float], Any]]:
    given, labels = row.values[boxes], row.values[label_column]
    if not isinstance(given, list) or not isinstance(labels, list) or len(given) != len(labels):
        raise BrokenTable(f"{row.place}: {boxes!r} and {label_column!r} are lists of one length, a label for each box")
    return [
        (_numbers(box, row, [boxes]), _label(label, row, label_column))
        for box, label in zip(given, labels, strict=True)
    ]


def _numbers(box: Any, row: Cells, columns: list[str]) -> list[float]:
    try:
        numbers = [float(number) for number in box]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 4 or not np.isfinite(numbers).all():
        raise BrokenTable(f"{row.place}: a box in {', '.join(map(repr, columns))} has four numbers, not {box!r}")
    return numbers


def _label(label: Any, row: Cells, column: str) -> Any:
    if label is None or label == "" or not isinstance(label, str | int):
        raise BrokenTable(f"{row.place}: the label {column!r} is {label!r}, neither text nor integer")
    return label


def ragged(boxes: Sequence[np.ndarray], labels: Sequence[Sequence[int]], dtype: str) -> dict[str, tf.RaggedTensor]:
    """`boxes` (images, n, 4) and `labels` (images, n) of several images."""
    lengths = [len(one) for one in boxes]
    flat = np.concatenate([*boxes, np.zeros((0, 4))])
    numbers = np.array([label for of_image in labels for label in of_image], np.int64)
    return {
        "boxes": tf.RaggedTensor.from_row_lengths(tf.constant(flat, dtype), tf.constant(lengths, tf.int64)),
        "labels": tf.RaggedTensor.from_row_lengths(numbers, tf.constant(lengths, tf.int64)),
    }
