"""`jsonl`: JSON objects, one a line or the elements of one array, about 1 MiB at a time."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tapeworks import Files, component, errors
from tapeworks_workers.components.sources import json_types
from tapeworks_workers.components.sources.arrow_columns import Form
from tapeworks_workers.components.sources.class_labels import Classes
from tapeworks_workers.components.sources.json_arrays import ArrayLines, BrokenArray, begins_array
from tapeworks_workers.components.sources.parts import PART_BYTES, Part, sampled
from tapeworks_workers.components.sources.tables import Table
from tapeworks_workers.components.sources.text_files import BOM, TextFile, Undecodable

_ROW = re.compile(r" in row (\d+)")
"""How pyarrow ends its messages."""
_LONG_INTEGER = re.compile(rb"[:\[,]\s*\d{19,}\s*[,\]}]")
_LF = 10
_SPACES = np.zeros(256, np.bool_)
"""By byte: whether a line that begins with it may be blank."""
_SPACES[list(b" \t\n\r\x0b\x0c")] = True
_HEAD_BYTES = 64 * 1024
_LONGEST_LINE = 64 * 1024 * 1024


@component("jsonl")
class Jsonl(Table):
    """One JSON object a line, or one array of objects a file; about 1 MiB is read at a time, of `.gz` files too.

    Every object has the same fields. A file whose first character is `[` is an array; any other holds lines.
    What the fields hold is taken from lines of all files: whole numbers are int64 (uint64 beyond it), others take the
    job's float dtype, texts stay texts (dates too), lists become RaggedTensors.

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
        encoding: of the files, as Python names it.
        nulls: "fail" refuses null, and a field that a line lacks; with "missing" it is NaN in numbers and "" in texts.
            Integers and booleans with nulls become the job's float, where that holds each of them exactly or `dtypes`
            names it.
        classes: of a label of texts, integers or booleans: y is int64, its place in this list; "auto": the values of
            the training split in order, which are read when the job starts.
    """

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
        encoding: str = "utf-8",
        nulls: Literal["fail", "missing"] = "fail",
        classes: Classes = None,
    ) -> None:
        super().__init__(files, labels, features, weight, named, dtypes, shapes, sparse, nulls=nulls, classes=classes)
        self._rows_in: dict[tuple[Path, Part], int] = {}
        try:
            self.texts = {path: TextFile(path, encoding) for path in self.paths}
        except LookupError as error:
            raise ValueError(f"encoding: {error}; give the name of a Python codec, as latin-1 or cp1252") from error

    # ── parts: lines, counted ──

    @functools.cached_property
    def arrays(self) -> set[Path]:
        """The files that hold one array, not lines. Raises JobFailure."""
        try:
            return {path for path, text in self.texts.items() if begins_array(text.head(_HEAD_BYTES))}
        except Undecodable as error:
            raise self._invalid(f"a file {error}") from error

    @functools.cached_property
    def _lines(self) -> dict[Path, tuple[list[Part], int]]:
        return {path: self._cut(path) for path in self.paths}

    def _parts(self, path: Path) -> tuple[list[Part], int]:
        return self._lines[path]

    def _size(self) -> int:
        return sum(end - start for parts, _ in self._lines.values() for start, end in parts)

    def _cut(self, path: Path) -> tuple[list[Part], int]:
        parts: list[Part] = []
        count, start, rest = 0, 0, b""
        array = ArrayLines() if path in self.arrays else None
        try:
            for number, block in enumerate(self.texts[path].blocks(PART_BYTES)):
                if not number and block.startswith(BOM):
                    block, start = block[len(BOM) :], len(BOM)
                rest += block if array is None else array.lines(block)
                size = rest.rfind(b"\n") + 1
                if size and (rows := _rows_of(rest[:size])):
                    parts.append((start, start + size))
                    self._rows_in[path, parts[-1]] = rows
                    count += rows
                rest, start = rest[size:], start + size
                if len(rest) > _LONGEST_LINE:
                    raise self._invalid(f"{path.name}: a line is longer than {_LONGEST_LINE} bytes")
        except Undecodable as error:
            raise self._invalid(f"{path.name} {error}") from error
        except BrokenArray as error:
            raise self._invalid(f"{path.name}, line {self.texts[path].line_at(error.offset)}: {error}") from error
        if array is not None and not array.closed:
            raise self._invalid(f"{path.name}: the array has no end; the file is cut, or a bracket is missing")
        if rows := _rows_of(rest):
            parts.append((start, start + len(rest)))
            self._rows_in[path, parts[-1]] = rows
            count += rows
        return parts, count

    # ── types ──

    @functools.cached_property
    def types(self) -> dict[Path, dict[str, Any]]:
        return {path: types for path, (types, _) in self._sampled.items()}

    @functools.cached_property
    def _sampled(self) -> dict[Path, tuple[dict[str, Any], set[str]]]:
        """Of each file the types of its fields, and those that some line lacks or gives as null."""
        chosen = sampled([self._lines[path][0] for path in self.paths], lambda part: part[1] - part[0])
        return {path: self._sampled_types(path, parts) for path, parts in zip(self.paths, chosen, strict=True)}

    def _has_nulls(self, name: str) -> bool:
        return any(name in nulls for _, nulls in self._sampled.values())

    def _types(self, path: Path) -> dict[str, Any]:
        return self.types[path]

    def _sampled_types(self, path: Path, parts: list[Part]) -> tuple[dict[str, Any], set[str]]:
        if not parts:
            raise self._invalid(f"{path.name} is empty")
        whole: dict[str, Any] = {}
        with_nulls: set[str] = set()
        for number, part in enumerate(parts):
            block = self._block(path, part)
            try:
                if _LONG_INTEGER.search(block):  # pyarrow makes floats of integers beyond int64
                    found, nulls = self._types_by_python(path, part, block)
                else:
                    table = self._parsed(block, None)
                    found = {field.name: json_types.without_times(field.type) for field in table.schema}
                    nulls = {name for name in found if table[name].null_count}
            except ValueError as error:
                if "changed from" not in str(error):
                    remedy = "write one object a line, or one array of objects"
                    raise self._wrong(path, part, error, remedy) from error
                found, nulls = self._types_by_python(path, part, block)
            with_nulls |= nulls
            with_nulls |= (whole.keys() ^ found.keys()) if number else set()
            whole = json_types.merged_fields(whole, found)
        return whole, with_nulls

    def _types_by_python(self, path: Path, part: Part, block: bytes) -> tuple[dict[str, Any], set[str]]:
        try:
            return json_types.by_python(block)
        except ValueError as error:
            raise self._invalid(f"{self._from(path, part)}: {error}") from error

    @functools.cached_property
    def _explicit(self) -> dict[str, Any]:
        """Column → the type that values of all files are read as."""
        import pyarrow as pa

        explicit: dict[str, Any] = {}
        for types in self.types.values():
            for name, kind in types.items():
                form = self.forms[name]
                if isinstance(form, Form):
                    fractions = form.kind == "float" or self.dtypes.get(name, "").startswith("float")
                    stored = {"int64": pa.int64(), "uint64": pa.uint64(), "bool": pa.bool_(), "string": pa.string()}
                    explicit[name] = _with_shape(pa.float64() if fractions else stored[form.kind], form.shape)
                else:
                    explicit[name] = kind
        return explicit

    # ── rows ──

    def _table(self, path: Path, part: Part, names: list[str]) -> Any:
        import pyarrow as pa

        return self._read(path, part, pa.schema([(name, self._explicit[name]) for name in names]))

    def _read(self, path: Path, part: Part, schema: Any) -> Any:
        block = self._block(path, part)
        try:
            table = self._parsed(block, schema)
        except ValueError as error:
            raise self._wrong(path, part, error) from error
        if len(schema) and table.num_rows != (rows := self._rows_in[path, part]):
            raise self._invalid(
                f"{self._from(path, part)}: {rows} lines hold {table.num_rows} objects; write one object a line"
            )
        return table

    def _parsed(self, block: bytes, schema: Any) -> Any:
        import pyarrow as pa
        import pyarrow.json

        return pyarrow.json.read_json(
            pa.BufferReader(block),
            pyarrow.json.ReadOptions(use_threads=False, block_size=len(block) + 1),
            pyarrow.json.ParseOptions(
                explicit_schema=schema, unexpected_field_behavior="ignore" if schema else "infer"
            ),
        )

    def _block(self, path: Path, part: Part) -> bytes:
        """The lines of a part, which are UTF-8. Raises JobFailure."""
        try:
            block = self.texts[path].read(*part)
        except Undecodable as error:
            raise self._invalid(f"{path.name} {error}") from error
        self._check_text(path, part, block)
        return ArrayLines(inside=part[0] > len(BOM)).lines(block) if path in self.arrays else block

    def _check_text(self, path: Path, part: Part, block: bytes) -> None:
        if block.isascii():
            return
        try:
            block.decode()
        except UnicodeDecodeError as error:
            line = self.texts[path].line_at(part[0] + error.start)
            raise self._invalid(
                f"{path.name}, line {line}: is not UTF-8 ({error.reason}); give the source its encoding, as latin-1"
            ) from error

    def _wrong(self, path: Path, part: Part, error: ValueError, remedy: str = "") -> errors.JobFailure:
        """A failure that names the line, where pyarrow names the row of the part."""
        found, remedy = _ROW.search(str(error)), remedy and f"; {remedy}"
        if found is None:
            return self._invalid(f"{self._from(path, part)}: {error}{remedy}")
        return self._invalid(f"{self._place(path, part, int(found[1]))}: {_ROW.sub('', str(error))}{remedy}")

    def _from(self, path: Path, part: Part) -> str:
        return f"{path.name}, lines from {self.texts[path].line_at(part[0])} on"

    def _place(self, path: Path, part: Part, row: int) -> str:
        begun, at = 0, 0
        for line in self._block(path, part).split(b"\n"):
            if line.strip():
                if at == row:
                    begun += len(line) - len(line.lstrip())
                    break
                at += 1
            begun += len(line) + 1
        place = f"{path.name}, line {self.texts[path].line_at(part[0] + begun)}"
        if path not in self.arrays:
            return place
        before = sum(self._rows_in[path, one] for one in self._parts(path)[0] if one < part)
        return f"{place}, object {before + row + 1}"


def _rows_of(lines: bytes) -> int:
    """Lines that are not blank."""
    octets = np.frombuffer(lines, np.uint8)
    ends = np.flatnonzero(octets == _LF)
    after = octets[ends[:-1] + 1] if lines.endswith(b"\n") else octets[ends + 1]
    if lines[:1].isspace() or _SPACES[after].any():
        return sum(1 for line in lines.split(b"\n") if line.strip())
    return len(ends) + (not lines.endswith(b"\n") and bool(lines.strip()))


def _with_shape(kind: Any, shape: tuple[int | None, ...]) -> Any:
    import pyarrow as pa

    for _ in shape:
        kind = pa.list_(kind)
    return kind
