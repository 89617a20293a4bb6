"""Sessions of the web page: a key exchanged for a cookie, which ends with the key, at its time, or by logging out.

Only the hash of a session's token is stored, beside the id of its key. What the session may do is looked up with the
key, as for a request that sends the key itself.
"""

from __future__ import annotations

import secrets

from sqlalchemy import RowMapping, delete, insert, select

from tapeworks_service.auth.keys import key_hash
from tapeworks_service.database.engine import Transaction
from tapeworks_service.database.tables import api_keys, sessions

COOKIE = "tapeworks_session"
_BYTES = 32
_MOST_CHARACTERS = 100


async def begin(tx: Transaction, key: RowMapping, *, seconds: float) -> tuple[str, float]:
    """A new session of a key that is valid: the token and when it ends (seconds since 1970). Removes those over."""
    now = await tx.now()
    await tx.execute(delete(sessions).where(sessions.c.expires_at <= now))
    token = secrets.token_urlsafe(_BYTES)
    row = {"token_hash": key_hash(token), "key_id": key["id"], "created_at": now, "expires_at": now + seconds}
    await tx.execute(insert(sessions).values(row))
    return token, now + seconds


async def end(tx: Transaction, token: str) -> None:
    """Log out. A token that is none is fine."""
    await tx.execute(delete(sessions).where(sessions.c.token_hash == key_hash(token)))


async def key_of(tx: Transaction, token_hash: str) -> RowMapping | None:
    """The key of a session with its `expires_at`, where both still hold."""
    statement = (
        select(api_keys, sessions.c.expires_at)
        .join(sessions, sessions.c.key_id == api_keys.c.id)
        .where(sessions.c.token_hash == token_hash, api_keys.c.revoked_at.is_(None))
    )
    row = await tx.one(statement)
    return row if row is not None and row["expires_at"] > await tx.now() else None


def token_in(cookie: str) -> str | None:
    """The session's token in a `Cookie` header."""
    for part in cookie.split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE and 0 < len(value) <= _MOST_CHARACTERS:
            return value
    return None
