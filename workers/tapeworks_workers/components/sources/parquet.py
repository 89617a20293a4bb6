"""`parquet`: Parquet files, a row group at a time."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tapeworks import component
from tapeworks_workers.components.sources.parts import Part
from tapeworks_workers.components.sources.tables import Table
from tapeworks_workers.components.sources.unpacked_size import check_row_groups, check_texts, flat_texts

_INDEX = re.compile(r"__index_level_\d+__")


@component("parquet")
class Parquet(Table):
    """Rows of Parquet files; a row group is read at a time.

    Integers keep their dtype, floats and decimals take the job's; timestamps are int64 microseconds, dates int64 days,
    times and durations int64 microseconds; lists become RaggedTensors, fixed-size ones dense. A column of several
    files has the dtype that holds the values of all; a value that does not fit is refused with file and row. Columns
    in the names of folders (`country=de/a.parquet`) come after those of the file. pandas' index
    (`__index_level_0__`) and columns of no such type are left out, with a diagnostic, unless they are named.

    Args:
        files: a glob, or several, below a data root.
        labels: the column y; a list of columns gives a dict; null: elements are x alone.
        features: the column x, as it is; a list of columns gives a vector (numbers of one dtype) or, with `named`, a
            dict. Default: all that are neither labels nor weight.
        weight: the column of sample weights.
        named: x is a dict by column.
        dtypes: column → dtype to cast to.
        shapes: column → shape of one row's list, null where the length varies: `[null, 3]` a series of three values.
        sparse: column of `{indices, values}` → its size: rows become SparseTensors, never made dense.
        nulls: "fail" refuses a null; with "missing" it is NaN in numbers and "" in texts. Integers, booleans and times
            with nulls become the job's float, where that holds each of them exactly or `dtypes` names it.
        classes: of a label of texts, integers or booleans: y is int64, its place in this list; "auto": the values of
            the training split in order, which are read when the job starts.
    """

    @functools.cached_property
    def indices(self) -> list[str]:
        found: dict[str, None] = {}
        for path in self.paths:
            stored = (self._footers[path][0].metadata or {}).get(b"pandas")
            for name in json.loads(stored).get("index_columns", []) if stored else ():
                if isinstance(name, str) and _INDEX.fullmatch(name):
                    found[name] = None
        return list(found)

    @functools.cached_property
    def _footers(self) -> dict[Path, tuple[Any, Any]]:
        """The Arrow schema and the metadata of each file. Raises JobFailure."""
        footers = {}
        for path in self.paths:
            with self._open(path) as file:
                footers[path] = (file.schema_arrow, file.metadata)
        return footers

    def _types(self, path: Path) -> dict[str, Any]:
        schema = self._footers[path][0]
        return dict(zip(schema.names, schema.types, strict=True))

    def _open(self, path: Path, texts: Sequence[str] = ()) -> Any:
        import pyarrow.parquet

        try:
            return pyarrow.parquet.ParquetFile(path, read_dictionary=list(texts))
        except (ValueError, OSError) as error:
            raise self._invalid(f"{path.name} cannot be read as Parquet: {error}") from error

    def _parts(self, path: Path) -> tuple[list[Part], int]:
        metadata = self._footers[path][1]
        groups = [group for group in range(metadata.num_row_groups) if metadata.row_group(group).num_rows]
        return [(group, 0) for group in groups], metadata.num_rows

    def _table(self, path: Path, part: Part, names: list[str]) -> Any:
        with self._open(path, flat_texts(self._footers[path][1], names)) as file:
            return file.read_row_group(part[0], columns=names, use_threads=False)

    def _has_nulls(self, name: str) -> bool:
        return any(self._nulls(path, name) for path in self.paths if name in self.types[path])

    def _nulls(self, path: Path, name: str) -> bool:
        """By the statistics of the row groups; one that has none is read."""
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
        """Of each file, the places of the columns among those of its row groups."""
        schemas = {path: metadata.schema for path, (_, metadata) in self._footers.items()}
        return {path: {schema.column(at).path: at for at in range(len(schema))} for path, schema in schemas.items()}

    def _check_size(self, path: Path, names: list[str]) -> None:
        check_row_groups(path, self._footers[path][1], names)

    def _unpacked(self, path: Path, name: str, whole: Any) -> Any:
        import pyarrow as pa

        if not isinstance(whole, pa.DictionaryArray):
            return whole
        check_texts(path, whole, name)
        return whole if pa.types.is_dictionary(self.types[path][name]) else whole.dictionary_decode()

    def _place(self, path: Path, part: Part, row: int) -> str:
        metadata = self._footers[path][1]
        before = sum(metadata.row_group(group).num_rows for group in range(part[0]))
        return f"{path.name}, row {before + row + 1}"
