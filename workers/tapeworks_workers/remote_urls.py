"""Addresses of remote files: one spelling of each, and which of them the worker's operator allows.

`s3://bucket/key`, `gs://bucket/key`, `https://host/path` and, where the operator names it so, `http://host/path`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote, unquote, urlsplit

SCHEMES = ("s3://", "gs://", "https://", "http://")
ARGUMENTS = ("files", "table")
"""The arguments of sources in which addresses are fetched."""
_PORTS = {"http": 80, "https": 443}
_CONTROL = re.compile(r"[\x00-\x20\x7f\\]")


class BadUrl(ValueError):
    """An address that is not read; the message says why."""


def is_remote(value: Any) -> bool:
    """Whether a text is the address of a remote file."""
    return isinstance(value, str) and value.lower().startswith(SCHEMES)


def normalised(url: str) -> str:
    """The one spelling of an address: what is compared with the allow-list and what is fetched. Raises BadUrl."""
    if _CONTROL.search(url):
        raise BadUrl("holds white space, a backslash or a control character")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadUrl(str(error)) from error
    scheme, host = parts.scheme.lower(), (parts.hostname or "").rstrip(".")
    if f"{scheme}://" not in SCHEMES or not host:
        raise BadUrl(f"is none of {', '.join(f'{one}…' for one in SCHEMES)}")
    if parts.username is not None or parts.password is not None:
        raise BadUrl("holds a user name or password: the operator configures credentials on the worker")
    web = scheme in _PORTS
    if parts.fragment or (parts.query and not web):
        raise BadUrl("holds a fragment or a query")
    path = quote(unquote(parts.path), safe="/!$&'()*+,;=:@-._~") if web else parts.path
    if any(unquote(segment) in (".", "..") for segment in path.split("/")) or "//" in path:
        raise BadUrl("holds an empty segment, '.' or '..'")
    address = f"[{host}]" if ":" in host else host
    if web and port is not None and port != _PORTS[scheme]:
        address += f":{port}"
    query = f"?{parts.query}" if parts.query else ""
    return f"{scheme}://{address}{path or '/'}{query}"


def allowed(url: str, prefixes: Sequence[str]) -> bool:
    """Whether a normalised address is below one of the normalised prefixes."""
    return any(url == one or url.startswith(one if one.endswith("/") else f"{one}/") for one in prefixes)


def patterns(data: Any) -> Iterator[str]:
    """The addresses that the sources of a spec's `data` name, in its order, each once."""
    yield from dict.fromkeys(_patterns(data))


def _patterns(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for one in value:
            yield from _patterns(one)
    elif isinstance(value, dict):
        for name, one in value.items():
            if name in ARGUMENTS:
                yield from filter(is_remote, one if isinstance(one, list) else [one])
            yield from _patterns(one)
