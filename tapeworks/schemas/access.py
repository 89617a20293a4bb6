"""Keys, sessions of the web page, and what the service says of itself."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from tapeworks.schemas.jobs import ResponseModel
from tapeworks.schemas.worker_protocol import Message

Scope = Literal["read", "submit", "admin", "worker"]


class SessionRequest(Message):
    """A log-in."""

    key: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)]


class Session(ResponseModel):
    """Whom a request is let in as."""

    object: Literal["session"] = "session"
    keyless: bool
    """The service has no key, so that nobody logs in: it serves its own machine."""
    project: str
    scopes: list[Scope]
    key_id: str | None = None
    expires_at: datetime | None = None
    """When the cookie ends; null where the request has none."""


class KeyRequest(Message):
    """A new key: its scopes are some of those of the key that makes it."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    scopes: tuple[Scope, ...] = Field(default=("read", "submit"), min_length=1, max_length=4)


class KeyInfo(ResponseModel):
    """A key without its text."""

    id: str
    object: Literal["key"] = "key"
    project: str
    name: str
    scopes: list[Scope]
    created_at: datetime
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None


class NewKey(KeyInfo):
    """A key that was made just now."""

    key: str
    """Its text: shown once, and not stored."""


class Versions(ResponseModel):
    """What runs here."""

    tapeworks: str
    api: Literal["v1"] = "v1"
    python: str
    database: Literal["sqlite", "postgresql"]
    packages: bool
    """Whether users may upload component packages."""
