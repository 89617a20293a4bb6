"""What a connection may take before anybody knows whose it is: bytes of a header, time, and a place among the others.

Limits hold for all connections together and for each address. Above the total a reserve is left, in which calls of
workers are answered and nothing else: a crowd of clients must not keep workers from renewing their leases. Where every
place is taken, the connection that has waited longest for its own header goes first.

Behind a proxy that is trusted by a setting, the address is that of `X-Forwarded-For`, and the limit for each address
holds for the requests in progress.
"""

from __future__ import annotations

import ipaddress
import resource
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from tapeworks.errors import ProblemCode
from tapeworks_service.observability.metrics import Metrics
from tapeworks_service.problems import Problem
from tapeworks_service.settings import ServiceSettings, StartRefused

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MOST_FILES = 65_536
OTHER_FILES = 128
"""Descriptors left for the database, the store and the rest."""
BODY_BYTES_PER_SECOND = 4096
"""A body that comes more slowly is given up, after `body_seconds`."""
_EVICTED_AFTER_SECONDS = 1.0
"""A header that has been on its way for less is on its way."""


class Connection(Protocol, Hashable):
    """The calls that a connection of the server accepts."""

    @property
    def reads(self) -> bool:
        """Whether the service takes in what comes; else it is the slow one."""

    def refuse(self, problem: Problem | None) -> None:
        """Answer with a problem where nothing was answered yet, and close."""


@dataclass(frozen=True)
class Limits:
    """How much connections may take."""

    connections: int
    reserve: int
    per_address: int
    header_bytes: int
    header_seconds: float
    body_seconds: float
    send_seconds: float
    proxies: tuple[Network, ...] = ()

    @classmethod
    def of(cls, settings: ServiceSettings) -> Limits:
        """The limits from the settings, within the descriptors that this process may have. Raises StartRefused."""
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        most = (MOST_FILES if files == resource.RLIM_INFINITY else files) - OTHER_FILES - settings.worker_connections
        if most < 1:
            raise StartRefused("the limit of open files (ulimit -n) is too low: allow at least 1024")
        return cls(
            connections=min(settings.max_connections, most),
            reserve=settings.worker_connections,
            per_address=settings.max_connections_per_address,
            header_bytes=settings.max_header_bytes,
            header_seconds=settings.header_seconds,
            body_seconds=settings.body_seconds,
            send_seconds=settings.send_seconds,
            proxies=_networks(settings.trusted_proxies),
        )


def _networks(text: str) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(one.strip()) for one in text.split(",") if one.strip())
    except ValueError as error:
        raise StartRefused(f"trusted_proxies must be addresses or networks, separated by commas: {error}") from None


def allow_many_files() -> None:
    """Let this process have as many open files as the system allows, within reason: each connection is one."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if most == resource.RLIM_INFINITY else min(MOST_FILES, most)
    if now != resource.RLIM_INFINITY and now < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


class Connections:
    """The connections of one server: who may have one, and whose time is over."""

    def __init__(self, limits: Limits, measures: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self._measures = measures
        self._clock = clock
        self._open: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        """Requests in progress that came through a proxy, by their address."""
        self._headers: dict[Connection, float] = {}
        """Connections that owe a header, since when: the longest first."""
        self._bodies: dict[Connection, tuple[float, int]] = {}
        """Those that owe a body: since when, and how much of it came."""
        self._unread: dict[Connection, float] = {}
        """Those whose client does not read its answer, since when."""

    def is_proxy(self, address: str) -> bool:
        """Whether a peer is a trusted proxy."""
        return bool(self.limits.proxies) and _within(address, self.limits.proxies)

    def client_of(self, address: str, forwarded: Iterable[str]) -> str:
        """The address behind proxies: the last one of `X-Forwarded-For` that is no trusted proxy itself."""
        for one in reversed([part.strip() for header in forwarded for part in header.split(",")]):
            if not self.is_proxy(one):
                return one[:100]
        return address

    # ── a place ──────────────────────────────────────────────────────────────────────────────────

    def admit(self, connection: Connection, address: str, *, total: int) -> tuple[bool, Problem | None]:
        """Take in a new connection, the `total`th: whether it is one of the reserve, and what refuses it."""
        self._open[address] += 1
        self.owes_header(connection)
        if not self.is_proxy(address) and self._open[address] > self.limits.per_address:
            return False, self.refused("address", f"{self.limits.per_address} connections of one address are open")
        if total <= self.limits.connections or self._evict():
            return False, None
        if total <= self.limits.connections + self.limits.reserve:
            return True, None
        return False, self.refused("total", "too many connections are open")

    def gone(self, connection: Connection, address: str) -> None:
        """A connection is closed."""
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]
        for owing in (self._headers, self._bodies, self._unread):
            owing.pop(connection, None)

    def refused(self, reason: str, detail: str) -> Problem:
        """503 for a connection or a request that is one too many."""
        self._measures.refused.labels(reason).inc()
        return Problem(ProblemCode.UNAVAILABLE, detail, headers={"Connection": "close"})

    def _evict(self) -> bool:
        """Close the connection that has owed its header longest, where that is long. Whether there was one."""
        longest, since = next(iter(self._headers.items()), (None, 0.0))
        if longest is None or self._clock() - since < _EVICTED_AFTER_SECONDS:
            return False
        del self._headers[longest]
        longest.refuse(self.refused("slow_header", "the header was not complete in time, and other connections wait"))
        return True

    # ── time ─────────────────────────────────────────────────────────────────────────────────────

    def owes_header(self, connection: Connection) -> None:
        """A header has begun, or a connection: noted once."""
        self._headers.setdefault(connection, self._clock())

    def has_header(self, connection: Connection) -> None:
        """The header is whole."""
        self._headers.pop(connection, None)

    def owes_body(self, connection: Connection, received: int) -> None:
        """So much of a body is there, and more is to come."""
        since, _ = self._bodies.get(connection, (self._clock(), 0))
        self._bodies[connection] = since, received

    def has_body(self, connection: Connection) -> None:
        """The body is whole, or nobody waits for it any more."""
        self._bodies.pop(connection, None)

    def unread(self, connection: Connection) -> None:
        """The client does not read its answer now."""
        self._unread.setdefault(connection, self._clock())

    def read_on(self, connection: Connection) -> None:
        """It reads again."""
        self._unread.pop(connection, None)

    def sweep(self) -> None:
        """Close those whose time is over; called once a second."""
        now = self._clock()
        limits = self.limits
        for connection, since in list(self._headers.items()):
            if now - since < limits.header_seconds:
                break  # those that came later owe it for less long
            self._late(self._headers, connection, "slow_header", f"no header within {limits.header_seconds:g} s")
        for connection, (since, received) in list(self._bodies.items()):
            if not connection.reads:
                self._bodies[connection] = now, received
            elif now - since > limits.body_seconds + received / BODY_BYTES_PER_SECOND:
                detail = f"the body arrives more slowly than {BODY_BYTES_PER_SECOND} bytes a second"
                self._late(self._bodies, connection, "slow_body", detail)
        for connection, since in list(self._unread.items()):
            if now - since > limits.send_seconds:
                self._late(self._unread, connection, "unread_answer", "the client does not read the response")

    def _late(self, owing: dict[Connection, Any], connection: Connection, reason: str, detail: str) -> None:
        del owing[connection]
        self._measures.refused.labels(reason).inc()
        connection.refuse(Problem(ProblemCode.REQUEST_TIMEOUT, detail, headers={"Connection": "close"}))


def _within(address: str, networks: Iterable[Network]) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(found in network for network in networks)
