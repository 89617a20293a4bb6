"""The database's clock: the only one that leases, events and lists go by.

Times are stored as seconds since 1970 (UTC) in a double: they add and compare alike in SQLite and PostgreSQL.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Double
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class epoch_now(FunctionElement[float]):
    """Seconds since 1970, by the database's clock."""

    type = Double()
    inherit_cache = True


@compiles(epoch_now, "sqlite")
def _sqlite(element: epoch_now, compiler: Any, **options: Any) -> str:
    # unixepoch('subsec') needs SQLite 3.42; the Julian day resolves 40 µs.
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(epoch_now, "postgresql")
def _postgresql(element: epoch_now, compiler: Any, **options: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


def instant(seconds: float) -> str:
    """RFC 3339 in UTC, milliseconds: `2026-03-01T12:00:00.250Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def optional_instant(seconds: float | None) -> str | None:
    """`instant`, or None."""
    return None if seconds is None else instant(seconds)
