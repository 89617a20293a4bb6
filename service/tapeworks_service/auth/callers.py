"""Who sent a request, remembered for a moment: whoever polls is not looked up each time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request

KNOWN_SECONDS = 1.0
"""How long a key that was revoked just now may still open the door."""
_MOST = 10_000


@dataclass(frozen=True)
class Caller:
    """Who sent a request."""

    project_id: str
    scopes: frozenset[str]
    keyless: bool = False
    """Let in because there is no key at all: only from this machine."""
    key_id: str | None = None
    key_name: str | None = None
    expires_at: float | None = None
    """When the session ends (seconds since 1970); None where the request had the key itself."""


async def still_allowed(request: Request) -> None:
    """Whether a request that was let in would be let in now: one that waits or streams may outlive its key.

    Raises 401, 403.
    """
    await request.state.identified()


class CallerCache:
    """Callers by the hash of their key; by that of their session's token behind `session:`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[str, tuple[Caller, float]] = {}

    def get(self, key_hash: str) -> Caller | None:
        """Whom a key stood for a moment ago."""
        caller, until = self._known.get(key_hash, (None, 0.0))
        return caller if until > self._clock() else None

    def put(self, key_hash: str, caller: Caller) -> None:
        """Caches a caller."""
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[key_hash] = caller, self._clock() + KNOWN_SECONDS

    def forget(self) -> None:
        """Look up everybody again: a key or a session was ended here."""
        self._known.clear()
