"""From which pages a browser's requests are accepted: with the cookie of a session, and without any key."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

from tapeworks.errors import ProblemCode
from tapeworks_service.problems import Problem

PAGE_HEADER = "X-Tapeworks-Page"
"""A request that changes something by cookie must have it: a form of another page cannot send it."""
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_PORTS = {"http": 80, "https": 443}
_LOCAL_NAMES = {"localhost", "127.0.0.1", "::1"}


def refuse_foreign(method: str, headers: Mapping[str, str], origins: str) -> None:
    """Browsers send a cookie with the requests of every page: only the service's own page may use it.

    Raises 403 for another origin, and for a change that does not say that it comes from the page.
    """
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin is not None and not _own(origin, headers.get("host", ""), origins):
        raise Problem(
            ProblemCode.FORBIDDEN,
            "a session is for the service's own page, not for one of another origin",
            hint="Open the page at the service's own address, or name that address in TAPEWORKS_ORIGINS.",
        )
    if method in _READING:
        return
    if headers.get(PAGE_HEADER) != "1" or (origin is None and site not in (None, "same-origin")):
        raise Problem(
            ProblemCode.FORBIDDEN,
            f"a change with a session needs the header {PAGE_HEADER}: 1, and comes from the service's own page",
            hint="Programs send a key: Authorization: Bearer tw_…",
        )


def refuse_other_sites(headers: Mapping[str, str], origins: str) -> None:
    """Without keys, being on this machine is the only right: a web page open here must not borrow it.

    Raises 403 for another host than this machine, and for a page of another origin.
    """
    local, own = _allowed(headers.get("host", ""), headers.get("origin"), headers.get("sec-fetch-site"), origins)
    if not local:
        raise Problem(
            ProblemCode.FORBIDDEN,
            "without an API key the service accepts requests from localhost only",
            hint="Use http://127.0.0.1, or start the service with a key.",
        )
    if not own:
        raise Problem(
            ProblemCode.FORBIDDEN,
            "without an API key the service rejects requests from pages of another origin",
            hint="Name the page's origin in TAPEWORKS_ORIGINS, or start the service with a key.",
        )


@lru_cache(maxsize=64)
def _own(origin: str, host: str, origins: str) -> bool:
    """Whether an `Origin` is that of the `Host` the request went to, or one that the settings name.

    The scheme is not compared: a proxy may terminate TLS, and then the service does not know of it.
    """
    if _is_named(origin, origins):
        return True
    there = _place(origin)
    if there is None or there.scheme not in _PORTS or there.host is None:
        return False
    return _place(f"{there.scheme}://{host}") == there


@lru_cache(maxsize=64)  # of each request, and nearly always the same
def _allowed(host: str, origin: str | None, site: str | None, origins: str) -> tuple[bool, bool]:
    """Whether a request is to this machine by its name, and from a page of the service or none.

    Another port of localhost is another server: any program on this machine may serve pages there.
    """
    here = _place(f"http://{host}")
    if here is None or here.host not in _LOCAL_NAMES:
        return False, False
    if origin is None:
        return True, site not in ("cross-site", "same-site")
    if _is_named(origin, origins):
        return True, True
    there = _place(origin)
    return True, there is not None and there.host in _LOCAL_NAMES and there.port == here.port


def _is_named(origin: str, origins: str) -> bool:
    """Whether TAPEWORKS_ORIGINS has it."""
    return origin in {one.strip().rstrip("/") for one in origins.split(",")} - {""}


class _Place(NamedTuple):
    scheme: str
    host: str | None
    port: int


def _place(url: str) -> _Place | None:
    """Where a URL leads; None for an invalid one."""
    try:
        parts = urlsplit(url)
        return _Place(parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme, _PORTS["http"]))
    except ValueError:
        return None
