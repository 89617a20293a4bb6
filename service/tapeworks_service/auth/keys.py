"""Keys: made, listed, revoked, in the database itself, whether the service runs or not.

Whoever can write to the database may make keys, so the first one needs none. A key is shown once, when it is made; only
its hash is stored. A service that runs hears of a new or a revoked key within a second.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import RowMapping, insert, select, update

from tapeworks.errors import TapeworksError
from tapeworks_service.database.clock import instant, optional_instant
from tapeworks_service.database.engine import Database, Transaction
from tapeworks_service.database.tables import api_keys, projects
from tapeworks_service.ids import new_id
from tapeworks_service.settings import ServiceSettings, StartRefused
from tapeworks_service.wakeups import WakeHub

DEFAULT_PROJECT = "default"
SCOPES = ("read", "submit", "admin", "worker")
WORKERS_OWN = {"worker"}
"""The scopes of a key with which a worker does its work, and nothing else."""
PREFIX = "tw_"
_BYTES = 32
_VALID = select(api_keys.c.scopes).where(api_keys.c.revoked_at.is_(None))


class KeyRefused(TapeworksError):
    """What was asked for cannot be; the message says why."""


class LastKey(KeyRefused):
    """A user's last key is revoked only if the request says so."""


@dataclass(frozen=True)
class Key:
    """A key without its text. Times in seconds since 1970."""

    id: str
    project: str
    name: str
    scopes: tuple[str, ...]
    created_at: float
    last_used_at: float | None
    revoked_at: float | None

    def document(self) -> dict[str, Any]:
        """The key as JSON."""
        return {
            "id": self.id, "project": self.project, "name": self.name, "scopes": list(self.scopes),
            "created_at": instant(self.created_at), "last_used_at": optional_instant(self.last_used_at),
            "revoked_at": optional_instant(self.revoked_at),
        }  # fmt: skip


@asynccontextmanager
async def opened(settings: ServiceSettings) -> AsyncIterator[Database]:
    """The installation's database, beside a service that may run on it."""
    if settings.database_url is None:
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = Database(settings.database, hub=WakeHub(), busy_seconds=settings.busy_seconds)
    await database.open(serves=False)
    try:
        yield database
    finally:
        await database.close()


async def create(
    tx: Transaction, *, name: str, project: str = DEFAULT_PROJECT, scopes: Sequence[str]
) -> tuple[Key, str]:
    """Make a key, and its project where it is new: the key and its text. Raises `KeyRefused`."""
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        what = f"{unknown[0]!r} is not a scope" if unknown else "a key must have at least one scope"
        raise KeyRefused(f"{what}; the scopes are {', '.join(SCOPES)}")
    if not 0 < len(name) <= 200 or not 0 < len(project) <= 64 or not project.isprintable() or "/" in project:
        raise KeyRefused("a name has 1 to 200 characters, a project 1 to 64 and no slash")
    now = await tx.now()
    if await tx.one(select(projects).where(projects.c.id == project)) is None:
        await tx.execute(insert(projects).values(id=project, created_at=now))
    text = PREFIX + secrets.token_urlsafe(_BYTES)
    ordered = [scope for scope in SCOPES if scope in scopes]
    row = {
        "id": new_id("key"), "project_id": project, "name": name, "key_hash": key_hash(text), "scopes": ordered,
        "from_settings": False, "created_at": now, "last_used_at": None, "revoked_at": None,
    }  # fmt: skip
    await tx.execute(insert(api_keys).values(row))
    return _key(row), text


async def listed(tx: Transaction) -> list[Key]:
    """All keys, revoked ones too, the oldest first."""
    return [_key(row) for row in await tx.all(select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id))]


async def revoke(tx: Transaction, key_id: str, *, last: bool = False) -> Key:
    """Revoke a key; again is fine. Raises `KeyRefused`, and `LastKey` for a user's last one unless `last`: without any,
    everyone on the service's machine is let in."""
    row = await tx.one(select(api_keys).where(api_keys.c.id == key_id))
    if row is None:
        raise KeyRefused(f"there is no key {key_id!r}: `tapeworks keys list` shows them")
    if row["revoked_at"] is not None:
        return _key(row)
    now = await tx.now()
    await tx.execute(update(api_keys).where(api_keys.c.id == key_id).values(revoked_at=now))
    if set(row["scopes"]) != WORKERS_OWN and not last and not await locked(tx):
        raise LastKey("this is the last key of a user: without one, every local user can use the service")
    return _key({**row, "revoked_at": now})


async def a_user_has_one(settings: ServiceSettings) -> bool:
    """Whether the installation has a key with which somebody is let in."""
    async with opened(settings) as database, database.read() as tx:
        return await locked(tx)


async def worker_key(settings: ServiceSettings, known: str | None) -> str:
    """The text of a key for the worker beside a service: the one that it had, where that still opens."""
    async with opened(settings) as database, database.write() as tx:
        if known is not None and await valid(tx, key_hash(known)) is not None:
            return known
        return (await create(tx, name="the worker beside the service", scopes=["worker"]))[1]


def _key(row: Mapping[Any, Any]) -> Key:
    names = ("id", "name", "created_at", "last_used_at", "revoked_at")
    return Key(project=row["project_id"], scopes=tuple(row["scopes"]), **{name: row[name] for name in names})


def key_hash(key: str) -> str:
    """What is stored of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


async def prepare(tx: Transaction, settings: ServiceSettings) -> None:
    """At start: the first project and key. Raises `StartRefused` for an open door on a public address."""
    now = await tx.now()
    if await tx.one(select(projects).where(projects.c.id == DEFAULT_PROJECT)) is None:
        await tx.execute(insert(projects).values(id=DEFAULT_PROJECT, created_at=now))
    key = settings.first_key()
    if key is not None:
        await _take_over(tx, key_hash(key))
    if not settings.loopback and not await locked(tx):
        raise StartRefused(
            f"without a key the service listens on loopback only, not on {settings.host}: "
            "make one (tapeworks keys create), set TAPEWORKS_API_KEY_FILE, or listen on 127.0.0.1"
        )


async def _take_over(tx: Transaction, hashed: str) -> None:
    """The settings' key is the one that counts: an earlier one of the settings is revoked."""
    now = await tx.now()
    await tx.execute(
        update(api_keys)
        .where(api_keys.c.from_settings, api_keys.c.key_hash != hashed, api_keys.c.revoked_at.is_(None))
        .values(revoked_at=now)
    )
    known = await tx.execute(update(api_keys).where(api_keys.c.key_hash == hashed).values(revoked_at=None))
    if known.rowcount == 0:
        await tx.execute(
            insert(api_keys).values(
                id=new_id("key"), project_id=DEFAULT_PROJECT, name="first", key_hash=hashed,
                scopes=list(SCOPES), from_settings=True, created_at=now,
            )
        )  # fmt: skip


async def valid(tx: Transaction, hashed: str) -> RowMapping | None:
    """The key with that hash, where it still opens."""
    return await tx.one(select(api_keys).where(api_keys.c.key_hash == hashed, api_keys.c.revoked_at.is_(None)))


async def locked(tx: Transaction) -> bool:
    """Whether a user has a key, so that nobody is let in without one. A worker's own is no user's."""
    return any(set(row["scopes"]) != WORKERS_OWN for row in await tx.all(_VALID))
