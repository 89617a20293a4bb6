"""What a dataset of images, texts or arrays holds: columns, rows, the first of them, and what a job must know of it.

A file that cannot be read does not refuse the others: it is a note. Images are read by their headers, and whole where
these leave a doubt.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras

from tapeworks_workers.components.sources import array_files, image_files, text_encoding
from tapeworks_workers.components.sources.image_files import BrokenImage
from tapeworks_workers.components.sources.text_encoding import BrokenText

_SHOWN = 5
_CHANNELS = 3

Content = dict[str, Any]


def images(files: list[Path], preview_rows: int) -> Content:
    """Raises BrokenImage where no file can be read."""
    broken = _broken(files, _readable)
    unreadable = {path for path, _ in broken}
    good = [path for path in files if path not in unreadable]
    if not good:
        raise BrokenImage(broken[0][1])
    height, width, _ = image_files.decoded(image_files.examine(good[0], _CHANNELS), _CHANNELS).shape
    preview = [{"file": f"{path.parent.name}/{path.name}"} for path in good[:preview_rows]]
    column = {"name": "x", "dtype": keras.config.floatx(), "shape": [height, width, _CHANNELS]}
    classes = dict(sorted(Counter(path.parent.name for path in files).items()))
    notes = _notes(broken, len(files), 'a job needs "on_error": "skip"')
    return {"rows": len(good), "columns": [column], "preview": preview, "classes": classes, "notes": notes}


def _readable(path: Path) -> None:
    """Raises BrokenImage."""
    file = image_files.examine(path, _CHANNELS)
    if file.decoder != image_files.PILLOW and not file.complete:
        image_files.decoded(file, _CHANNELS)


def text(files: list[Path], preview_rows: int, *, counted: bool, encoding: str = text_encoding.UTF_8) -> Content:
    """`counted`: whether the files are small enough to be read whole."""
    encoding = text_encoding.codec(encoding)
    broken = _broken(files, lambda path: text_encoding.examine(path, encoding)) if counted else []
    count = sum(1 for line in _lines(files, encoding) if line.strip()) if counted else None
    preview = [{"x": line} for line in itertools.islice(filter(str.strip, _lines(files, encoding)), preview_rows)]
    folders = Counter(path.parent.name for path in files)
    return {
        "rows": None if broken else count,
        "columns": [{"name": "x", "dtype": "string", "shape": []}],
        "preview": preview,
        "classes": dict(sorted(folders.items())) if len(folders) > 1 else {},
        "notes": _notes(broken, len(files), 'a job needs their "encoding"'),
    }


def _lines(files: list[Path], encoding: str) -> Iterator[str]:
    for path in files:
        known = "utf-8-sig" if encoding == text_encoding.UTF_8 else encoding
        with path.open(encoding=known, errors="replace", newline="\n") as file:
            for line in file:
                yield line.rstrip("\r\n")


def arrays(files: list[Path]) -> tuple[Content, list[str]]:
    """Columns and rows by the headers, and the arrays whose rows can be read. Raises BrokenArrays."""
    tables = array_files.tables(files)
    headers = {name: tables[0].header(name) for name in tables[0].places}
    columns: list[Content] = []
    notes, readable = [], []
    for name, (shape, dtype) in headers.items():
        columns.append({"name": name, "dtype": dtype.name, "shape": list(shape[1:])})
        if (why := array_files.unusable(dtype)) is not None:
            notes.append(f"no job can read the array {name!r}: it holds {why}")
        elif shape:
            readable.append(name)
    lengths = [{table.header(name)[0][:1] for name in table.places} for table in tables]
    if any(len(one) != 1 or () in one for one in lengths):
        # Arrays of different lengths are no rows: their own shapes say more.
        columns = [{**column, "shape": list(headers[column["name"]][0])} for column in columns]
        return {"rows": None, "columns": columns, "preview": [], "notes": notes}, []
    rows = sum(length for one in lengths for (length,) in one)
    return {"rows": rows, "columns": columns, "preview": [], "notes": notes}, readable


def _broken(files: list[Path], examine: Callable[[Path], Any]) -> list[tuple[Path, str]]:
    """The files that cannot be read, and why."""
    found = []
    for path in files:
        try:
            examine(path)
        except (BrokenImage, BrokenText) as error:
            found.append((path, str(error)))
    return found


def _notes(broken: list[tuple[Path, str]], files: int, remedy: str) -> list[str]:
    if not broken:
        return []
    more = f"; and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
    reasons = "; ".join(why for _, why in broken[:_SHOWN])
    return [f"{len(broken)} of {files} files cannot be read; {remedy}: {reasons}{more}"]
