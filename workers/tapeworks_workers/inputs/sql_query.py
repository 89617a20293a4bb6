"""Runs one query and writes its rows as an Arrow file: `python -m tapeworks_workers.inputs.sql_query`.

It reads a JSON object from stdin (`Query`) and answers with one on stdout: `rows`, `bytes`, `sha256`, or `error`. The
agent starts it, so that neither a driver's crash nor its memory is the agent's, and no sandbox sees the credentials.

SQLite files are opened with `mode=ro`, PostgreSQL sessions with `default_transaction_read_only`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from tapeworks_workers.inputs.sql_statements import one_query

BATCH_ROWS = 65_536
_TYPE = b"ADBC:postgresql:typname"


@dataclass(frozen=True)
class Query:
    """What is asked."""

    url: str
    """`sqlite:///absolute/path.db` or `postgresql://user:password@host/database`."""
    query: str
    path: str
    """Where the rows are written."""
    most_rows: int
    most_bytes: int
    seconds: float


class TooMany(ValueError):
    """More rows or bytes than allowed."""


def run(asked: Query) -> dict[str, Any]:
    """Write the rows. Raises NotOneQuery, TooMany, ValueError, and the driver's errors."""
    import adbc_driver_manager as adbc  # not its dbapi, which imports pandas and polars
    import pyarrow as pa

    text = one_query(asked.query)
    with (
        _opened(asked) as database,
        adbc.AdbcConnection(database) as connection,
        adbc.AdbcStatement(connection) as statement,
    ):
        statement.set_sql_query(text)
        stream, _ = statement.execute_query()
        reader = pa.RecordBatchReader.from_stream(stream)
        schema = _plain_schema(reader.schema)
        if not len(schema):
            raise ValueError("the query gives no columns")
        rows = 0
        with pa.OSFile(asked.path, "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for table in _even(_bounded(reader, asked)):
                writer.write_table(_plain(table, schema), max_chunksize=BATCH_ROWS)
                rows += table.num_rows
    with Path(asked.path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"rows": rows, "bytes": Path(asked.path).stat().st_size, "sha256": digest}


def _bounded(reader: Any, asked: Query) -> Iterator[Any]:
    rows = size = 0
    for batch in reader:
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows > asked.most_rows:
            raise TooMany(f"the query gives more than {asked.most_rows} rows")
        if size > asked.most_bytes:
            raise TooMany(f"the rows of the query have more than {asked.most_bytes} bytes")
        yield batch


def _even(batches: Iterator[Any]) -> Iterator[Any]:
    """Tables of `BATCH_ROWS` rows, whatever the driver's batches are: the same rows are the same bytes."""
    import pyarrow as pa

    held: Any = None
    for batch in batches:
        table = pa.Table.from_batches([batch])
        held = table if held is None else pa.concat_tables([held, table])
        while held.num_rows >= BATCH_ROWS:
            yield held.slice(0, BATCH_ROWS).combine_chunks()
            held = held.slice(BATCH_ROWS)
    if held is not None and held.num_rows:
        yield held.combine_chunks()


def _plain_schema(schema: Any) -> Any:
    """Decimals of PostgreSQL come as texts: they are floats, as decimals are."""
    import pyarrow as pa

    return pa.schema([pa.field(field.name, pa.float64() if _is_numeric(field) else field.type) for field in schema])


def _is_numeric(field: Any) -> bool:
    return (field.metadata or {}).get(_TYPE) == b"numeric"


def _plain(table: Any, schema: Any) -> Any:
    import pyarrow as pa

    columns = []
    for name, column, field in zip(schema.names, table.columns, schema, strict=True):
        storage = column.combine_chunks() if column.type != field.type else column
        storage = storage.storage if isinstance(storage, pa.ExtensionArray) else storage
        try:
            columns.append(storage.cast(field.type))
        except pa.ArrowInvalid as error:
            raise ValueError(f"column {name!r}: {error}") from error
    return pa.Table.from_arrays(columns, schema=schema)


def _opened(asked: Query) -> Any:
    """A database, to be read only."""
    parts = urlsplit(asked.url)
    if parts.scheme == "sqlite":
        import adbc_driver_sqlite as sqlite

        path = "/" + unquote(parts.path).lstrip("/")
        if not Path(path).is_file():
            raise ValueError("the database file does not exist")
        return sqlite.connect(f"file:{quote(path)}?mode=ro")
    if parts.scheme in ("postgresql", "postgres"):
        import adbc_driver_postgresql as postgresql

        session = f"-c default_transaction_read_only=on -c statement_timeout={int(asked.seconds * 1000)}"
        given = dict(parse_qsl(parts.query))
        given["options"] = f"{given.get('options', '')} {session}".strip()
        query = urlencode(given, quote_via=quote)
        return postgresql.connect(parts._replace(query=query).geturl())
    raise ValueError(f"{parts.scheme!r} is not a supported database: sqlite:///… or postgresql://…")


def without_secrets(message: str, url: str) -> str:
    """A driver's message without what the operator's URL holds."""
    secret = urlsplit(url).password
    for text in filter(None, (url, secret, unquote(secret) if secret else None)):
        message = message.replace(text, "…")
    return message


def main() -> int:
    """Answer one query."""
    asked = Query(**json.load(sys.stdin))
    try:
        answer = run(asked)
    except Exception as error:  # a driver has errors of its own
        answer = {"error": without_secrets(f"{error}", asked.url)[:2000]}
    json.dump(answer, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
