"""Which leases were not renewed for a lease's time, by this process's monotonic clock.

A lease's row holds when it expires by the database's wall clock; a clock that is set makes all of them expire at once,
or none for an hour. So each service watches whether the rows change: a renewal changes that value. No wall clock has a
part in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple


class HeldLease(NamedTuple):
    """A lease as it is stored: another value after each renewal."""

    job_id: str
    attempt: int
    expires_at: float


class LeaseWatch:
    """Remembers since when each lease has stood as it is."""

    def __init__(self, lease_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._since: dict[HeldLease, float] = {}

    def silent(self, held: Iterable[HeldLease]) -> dict[HeldLease, float]:
        """All leases that are held now → those that were not renewed for a lease's time, with the seconds."""
        now = self._clock()
        self._since = {lease: self._since.get(lease, now) for lease in held}
        silences = {lease: now - since for lease, since in self._since.items()}
        return {lease: seconds for lease, seconds in silences.items() if seconds >= self._lease_seconds}

    def forget(self) -> None:
        """Begin anew: nobody could renew until now. Each lease has its whole time again."""
        self._since.clear()
