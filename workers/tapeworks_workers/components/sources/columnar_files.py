"""Parquet files, a row group at a time, and Arrow IPC files and streams, some record batches at a time.

The sources `parquet` and `sql` are such tables.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tapeworks_workers.components.sources import huggingface
from tapeworks_workers.components.sources.arrow_columns import Form, Unreadable
from tapeworks_workers.components.sources.arrow_files import ArrowFile, Kind, kind_of
from tapeworks_workers.components.sources.parts import Part
from tapeworks_workers.components.sources.tables import Table
from tapeworks_workers.components.sources.unpacked_size import check_row_groups, check_texts, flat_texts

_INDEX = re.compile(r"__index_level_\d+__")


class ColumnarFiles(Table):
    """A table of files that hold columns; the first bytes of each say what it is."""

    @functools.cached_property
    def indices(self) -> list[str]:
        found: dict[str, None] = {}
        for path in self.paths:
            stored = (self._schema(path).metadata or {}).get(b"pandas")
            for name in json.loads(stored).get("index_columns", []) if stored else ():
                if isinstance(name, str) and _INDEX.fullmatch(name):
                    found[name] = None
        return list(found)

    @functools.cached_property
    def arrow(self) -> dict[Path, ArrowFile]:
        """The files that are Arrow IPC. Raises JobFailure."""
        found = {}
        for path in self.paths:
            kind = kind_of(path)
            if kind is Kind.FEATHER_1:
                raise self._invalid(f"{path.name} is {kind}, which is obsolete: write it again with to_feather")
            if kind is not Kind.PARQUET:
                found[path] = ArrowFile(path, kind)
                try:
                    _ = found[path].batches, found[path].schema.names
                except (ValueError, OSError) as error:
                    raise self._invalid(f"{path.name} cannot be read as {kind}: it {error}") from error
        return found

    @functools.cached_property
    def _footers(self) -> dict[Path, tuple[Any, Any]]:
        """The Arrow schema and the metadata of each Parquet file. Raises JobFailure."""
        footers = {}
        for path in self.paths:
            if path not in self.arrow:
                with self._open(path) as file:
                    footers[path] = (file.schema_arrow, file.metadata)
        return footers

    def _schema(self, path: Path) -> Any:
        return self.arrow[path].schema if path in self.arrow else self._footers[path][0]

    def _types(self, path: Path) -> dict[str, Any]:
        schema = self._schema(path)
        return dict(zip(schema.names, map(huggingface.stored, schema.types), strict=True))

    @functools.cached_property
    def forms(self) -> dict[str, Form | Unreadable]:
        forms = dict(super().forms)
        for name, shape in huggingface.shapes(self._schema(self.paths[0])).items():
            form = forms.get(name)
            if isinstance(form, Form) and len(form.shape) == len(shape):
                forms[name] = Form(form.kind, shape)
        return forms

    @functools.cached_property
    def numbered_classes(self) -> dict[str, list[str]]:
        """Column of integers → the names that they number, by Hugging Face's metadata. Raises JobFailure."""
        first, *others = (huggingface.class_names(self._schema(path)) for path in self.paths)
        for path, names in zip(self.paths[1:], others, strict=True):
            for name in first:
                if names.get(name) != first[name]:
                    raise self._invalid(f"{path.name} numbers the classes of {name!r} unlike {self.paths[0].name}")
        return first

    def class_names(self) -> list[str] | None:
        names = self.numbered_classes.get(self.labels) if isinstance(self.labels, str) else None
        if names is None:
            return super().class_names()
        self.classes = names if self.classes is None else self.classes
        return names

    def _open(self, path: Path, texts: Sequence[str] = ()) -> Any:
        import pyarrow.parquet

        try:
            return pyarrow.parquet.ParquetFile(path, read_dictionary=list(texts))
        except (ValueError, OSError) as error:
            raise self._invalid(f"{path.name} cannot be read as Parquet: {error}") from error

    def _parts(self, path: Path) -> tuple[list[Part], int]:
        if (arrow := self.arrow.get(path)) is not None:
            return arrow.parts, sum(arrow.rows(part) for part in arrow.parts)
        metadata = self._footers[path][1]
        groups = [group for group in range(metadata.num_row_groups) if metadata.row_group(group).num_rows]
        return [(group, 0) for group in groups], metadata.num_rows

    def _table(self, path: Path, part: Part, names: list[str]) -> Any:
        if (arrow := self.arrow.get(path)) is not None:
            return arrow.read(part, names)
        with self._open(path, flat_texts(self._footers[path][1], names)) as file:
            return file.read_row_group(part[0], columns=names, use_threads=False)

    def _has_nulls(self, name: str) -> bool:
        return any(self._nulls(path, name) for path in self.paths if name in self.types[path])

    def _nulls(self, path: Path, name: str) -> bool:
        """By the statistics of the row groups; a row group without them, and an Arrow file, is read."""
        if (arrow := self.arrow.get(path)) is not None:
            return any(arrow.read(part, [name])[name].null_count for part in arrow.parts)
        metadata, place = self._footers[path][1], self._places[path].get(name)
        for group in range(metadata.num_row_groups):
            found = None if place is None else metadata.row_group(group).column(place).statistics
            if found is not None and found.has_null_count:
                nulls = found.null_count
            else:
                nulls = self._table(path, (group, 0), [name])[name].null_count
            if nulls:
                return True
        return False

    @functools.cached_property
    def _places(self) -> dict[Path, dict[str, int]]:
        """Of each Parquet file, the places of the columns among those of its row groups."""
        schemas = {path: metadata.schema for path, (_, metadata) in self._footers.items()}
        return {path: {schema.column(at).path: at for at in range(len(schema))} for path, schema in schemas.items()}

    def _check_size(self, path: Path, names: list[str]) -> None:
        if (arrow := self.arrow.get(path)) is not None:
            arrow.check_size()
        else:
            check_row_groups(path, self._footers[path][1], names)

    def _unpacked(self, path: Path, name: str, whole: Any) -> Any:
        import pyarrow as pa

        if isinstance(whole, pa.ExtensionArray) and whole.type != self.types[path][name]:
            whole = whole.storage
        if path in self.arrow or not isinstance(whole, pa.DictionaryArray):
            return whole
        check_texts(path, whole, name)
        return whole if pa.types.is_dictionary(self.types[path][name]) else whole.dictionary_decode()

    def _place(self, path: Path, part: Part, row: int) -> str:
        if (arrow := self.arrow.get(path)) is not None:
            before = arrow.rows((0, part[0]))
        else:
            metadata = self._footers[path][1]
            before = sum(metadata.row_group(group).num_rows for group in range(part[0]))
        return f"{path.name}, row {before + row + 1}"
