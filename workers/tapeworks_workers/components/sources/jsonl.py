"""`jsonl`: one JSON object a line, about 1 MiB of lines at a time."""

from __future__ import annotations

import functools
import io
import re
from pathlib import Path
from typing import Any, Literal

from tapeworks import Files, component
from tapeworks_workers.components.sources import json_types
from tapeworks_workers.components.sources.arrow_columns import Form
from tapeworks_workers.components.sources.class_labels import Classes
from tapeworks_workers.components.sources.parts import PART_BYTES, Part, sampled
from tapeworks_workers.components.sources.tables import Table
from tapeworks_workers.components.sources.text_files import BOM, TextFile, Undecodable

_BLANK = re.compile(rb"\n\s")
"""What there is where a line may be blank."""
_LONGEST_LINE = 64 * 1024 * 1024


@component("jsonl")
class Jsonl(Table):
    """One JSON object a line, all with the same fields; about 1 MiB of lines is read at a time, of `.gz` files too.

    What the fields hold is taken from lines of all files: whole numbers are int64, others take the job's float dtype,
    texts stay texts (dates too), lists become RaggedTensors.

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
        super().__init__(files, labels, features, weight, named, dtypes, shapes, sparse, nulls, classes)
        try:
            self.texts = {path: TextFile(path, encoding) for path in self.paths}
        except LookupError as error:
            raise ValueError(f"encoding: {error}; give the name of a Python codec, as latin-1 or cp1252") from error

    # ── parts: lines, counted ──

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
        try:
            for block in self.texts[path].blocks(PART_BYTES):
                rest += block
                if not parts and not start and rest.startswith(BOM):
                    rest, start = rest[len(BOM) :], len(BOM)
                size = rest.rfind(b"\n") + 1
                if size and (rows := _rows_of(rest[:size])):
                    parts.append((start, start + size))
                    count += rows
                rest, start = rest[size:], start + size
                if len(rest) > _LONGEST_LINE:
                    raise self._invalid(f"{path.name}: a line is longer than {_LONGEST_LINE} bytes")
        except Undecodable as error:
            raise self._invalid(f"{path.name} {error}") from error
        if rows := _rows_of(rest):
            parts.append((start, start + len(rest)))
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
                table = self._parsed(block, None)
                found = {field.name: json_types.without_times(field.type) for field in table.schema}
                with_nulls |= {name for name in found if table[name].null_count}
            except ValueError as error:
                if "changed from" not in str(error):
                    raise self._invalid(f"{self._from(path, part)}: {error}") from error
                found, nulls = json_types.by_python(block)
                with_nulls |= nulls
            with_nulls |= (whole.keys() ^ found.keys()) if number else set()
            whole = json_types.merged_fields(whole, found)
        return whole, with_nulls

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
                    stored = {"int64": pa.int64(), "bool": pa.bool_(), "string": pa.string()}
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
            raise self._invalid(f"{self._from(path, part)}: {error}") from error
        if len(schema) and table.num_rows != (rows := _rows_of(block)):
            raise self._invalid(
                f"{self._from(path, part)}: {rows} lines hold {table.num_rows} objects; write one object a line"
            )
        return table

    def _parsed(self, block: bytes, schema: Any) -> Any:
        import pyarrow.json

        return pyarrow.json.read_json(
            io.BytesIO(block),
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
        return block

    def _check_text(self, path: Path, part: Part, block: bytes) -> None:
        if block.isascii():
            return
        try:
            block.decode()
        except UnicodeDecodeError as error:
            line = self.texts[path].line_at(part[0] + error.start)
            raise self._invalid(
                f"{path.name}, line {line}: is no UTF-8 ({error.reason}); give the source its encoding, as latin-1"
            ) from error

    def _from(self, path: Path, part: Part) -> str:
        return f"{path.name}, lines from {self.texts[path].line_at(part[0])} on"

    def _place(self, path: Path, part: Part, row: int) -> str:
        begun, at = 0, 0
        for line in self.texts[path].read(*part).split(b"\n"):
            if line.strip():
                if at == row:
                    break
                at += 1
            begun += len(line) + 1
        return f"{path.name}, line {self.texts[path].line_at(part[0] + begun)}"


def _rows_of(lines: bytes) -> int:
    """Lines that are not blank."""
    ends = lines.count(b"\n") + (not lines.endswith(b"\n") and bool(lines.strip()))
    if lines[:1].isspace() or _BLANK.search(lines):
        return sum(1 for line in lines.split(b"\n") if line.strip())
    return ends


def _with_shape(kind: Any, shape: tuple[int | None, ...]) -> Any:
    import pyarrow as pa

    for _ in shape:
        kind = pa.list_(kind)
    return kind
