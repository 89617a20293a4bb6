"""The same table written and read by pandas, polars and DuckDB."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl

from qualification.tables.setups import Setup

TEXTS = ("text", "category", "pad")


def write(setup: Setup, folder: Path) -> list[Path]:
    """The files of a table, in order."""
    paths = []
    for number, frame in enumerate(setup.frames()):
        path = folder / f"{number}.{setup.format}"
        {"pandas": _pandas, "polars": _polars, "duckdb": _duckdb}[setup.writer](setup, frame, path)
        if setup.options.get("packed"):
            packed = path.with_name(f"{path.name}.gz")
            packed.write_bytes(gzip.compress(path.read_bytes(), 1))
            path.unlink()
            path = packed
        paths.append(path)
    return paths


def _pandas(setup: Setup, frame: pd.DataFrame, path: Path) -> None:
    if setup.format == "csv":
        quoting = csv.QUOTE_ALL if setup.options["quote_all"] else csv.QUOTE_MINIMAL
        frame.to_csv(
            path, index=False, sep=setup.options["delimiter"], quoting=quoting,
            encoding=setup.options.get("encoding", "utf-8"), lineterminator=setup.options.get("lineterminator", "\n"),
        )  # fmt: skip
    elif setup.format == "parquet":
        frame.to_parquet(path, row_group_size=max(1, len(frame) // 3))
    else:
        frame.to_json(path, orient="records", lines=True, double_precision=15, force_ascii=False)


def _polars(setup: Setup, frame: pd.DataFrame, path: Path) -> None:
    table = pl.from_pandas(frame, nan_to_null=True)
    if setup.format == "csv":
        style: Any = "always" if setup.options["quote_all"] else "necessary"
        table.write_csv(path, separator=setup.options["delimiter"], quote_style=style)
    elif setup.format == "parquet":
        table.write_parquet(path, row_group_size=max(1, len(frame) // 2))
    else:
        table.write_ndjson(path)


def _duckdb(setup: Setup, frame: pd.DataFrame, path: Path) -> None:
    with _connection() as connection:
        connection.register("frame", frame)
        options = {"parquet": "FORMAT parquet, ROW_GROUP_SIZE 2048", "jsonl": "FORMAT json"}.get(setup.format)
        if options is None:
            quoted = f", FORCE_QUOTE *, DELIMITER '{setup.options['delimiter']}'"
            quoted = quoted if setup.options["quote_all"] else quoted.replace(", FORCE_QUOTE *", "")
            options = f"FORMAT csv, HEADER{quoted}"
        connection.sql(f"COPY (SELECT * FROM frame) TO '{path}' ({options})")  # noqa: S608


def read(setup: Setup, paths: list[Path]) -> pd.DataFrame:
    """All rows as a library reads them."""
    frames = [{"pandas": _by_pandas, "polars": _by_polars, "duckdb": _by_duckdb}[setup.reader](setup, p) for p in paths]
    return pd.concat([frame.astype(object) for frame in frames], ignore_index=True)


def _by_pandas(setup: Setup, path: Path) -> pd.DataFrame:
    texts = [name for name, kind in setup.kinds.items() if kind in TEXTS]
    if setup.format == "csv":
        return pd.read_csv(
            path, sep=setup.options["delimiter"], encoding=setup.options.get("encoding", "utf-8"),
            dtype=dict.fromkeys(texts, "str"), keep_default_na=False, na_values={
                name: [""] for name in setup.kinds if name not in texts
            }, float_precision="round_trip",
        )  # fmt: skip
    if setup.format == "parquet":
        return pd.read_parquet(path)
    return pd.read_json(path, lines=True, dtype=False, convert_dates=False, precise_float=True)


def _by_polars(setup: Setup, path: Path) -> pd.DataFrame:
    if setup.format == "parquet":
        return pl.read_parquet(path).to_pandas()
    if setup.format == "jsonl":
        return pl.read_ndjson(path, infer_schema_length=None).to_pandas()
    texts = {name: pl.String for name, kind in setup.kinds.items() if kind in TEXTS}
    table = pl.read_csv(path, separator=setup.options["delimiter"], schema_overrides=texts, infer_schema_length=None)
    return table.to_pandas()


def _by_duckdb(setup: Setup, path: Path) -> pd.DataFrame:
    with _connection() as connection:
        if setup.format == "parquet":
            return connection.read_parquet(str(path)).df()
        if setup.format == "jsonl":
            options = "format = 'newline_delimited', sample_size = -1, maximum_depth = 2"
            return connection.sql(f"SELECT * FROM read_json('{path}', {options})").df()  # noqa: S608
        names = {"row": "BIGINT", **{name: _TYPES[kind] for name, kind in setup.kinds.items()}}
        columns = ", ".join(f"'{name}': '{kind}'" for name, kind in names.items())
        frame = connection.sql(
            f"SELECT * FROM read_csv('{path}', header = true, delim = '{setup.options['delimiter']}', quote = '\"', "  # noqa: S608
            f"escape = '\"', columns = {{{columns}}}, auto_detect = false, strict_mode = false)"
        ).df()
        texts = [name for name, kind in setup.kinds.items() if kind in TEXTS]
        return frame.fillna(dict.fromkeys(texts, "")) if texts else frame


_TYPES = {
    "integer": "BIGINT", "id": "BIGINT", "small": "BIGINT", "number": "DOUBLE", "mixed": "DOUBLE", "flag": "BOOLEAN",
    "text": "VARCHAR", "category": "VARCHAR", "pad": "VARCHAR", "blank": "DOUBLE",
}  # fmt: skip


def _connection() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"threads": 1, "memory_limit": "1GB"})
