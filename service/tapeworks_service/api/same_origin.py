"""Which requests may use the cookie of a session: those of the service's own page."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import urlsplit

from tapeworks.errors import ProblemCode
from tapeworks_service.problems import Problem

PAGE_HEADER = "X-Tapeworks-Page"
"""A request that changes something by cookie must have it: a form of another page cannot send it."""
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_PORTS = {"http": 80, "https": 443}


def refuse_foreign(method: str, headers: Mapping[str, str], origins: str) -> None:
    """A cookie is sent by the browser, whoever made the request: only the service's own page may use it.

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


@lru_cache(maxsize=64)
def _own(origin: str, host: str, origins: str) -> bool:
    """Whether an `Origin` is that of the `Host` the request went to, or one that the settings name.

    The scheme is not compared: a proxy may take TLS off, and then nobody here knows of it.
    """
    if origin in {one.strip().rstrip("/") for one in origins.split(",")} - {""}:
        return True
    try:
        there = urlsplit(origin)
        here = urlsplit(f"{there.scheme}://{host}")
        default = _PORTS.get(there.scheme)
        same = there.hostname == here.hostname and (there.port or default) == (here.port or default)
        return default is not None and there.hostname is not None and same
    except ValueError:
        return False
