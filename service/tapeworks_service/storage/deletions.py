"""Files whose rows are gone: noted in the transaction that removed the rows, deleted after it.

What a crash or a failing store leaves over, the reaper takes up again.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import delete, select

from tapeworks_service.database.engine import Database, Transaction
from tapeworks_service.database.tables import deletions
from tapeworks_service.problems import Problem
from tapeworks_service.storage.store import Store


async def schedule_delete(tx: Transaction, prefixes: Iterable[str]) -> None:
    """Note prefixes of the store whose files nothing refers to any more."""
    now = await tx.now()
    for prefix in prefixes:
        statement = tx.insert(deletions).values(prefix=prefix, created_at=now)
        await tx.execute(statement.on_conflict_do_nothing())


async def delete_noted(database: Database, store: Store, *, limit: int = 100) -> None:
    """Delete the files of noted prefixes; what the store refuses stays noted."""
    async with database.read() as tx:
        noted = await tx.all(select(deletions.c.prefix).order_by(deletions.c.created_at).limit(limit))
    for row in noted:
        try:
            await store.delete(row["prefix"])
        except Problem:
            continue  # logged by the store; tried again at the reaper's next round
        async with database.write() as tx:
            await tx.execute(delete(deletions).where(deletions.c.prefix == row["prefix"]))
