"""Ids: a prefix that says what it is, and a UUIDv7 in hex."""

from __future__ import annotations

from uuid_utils import uuid7


def new_id(prefix: str) -> str:
    """A new id, such as `job_01a20a2d9cd771f3ad174f297fca60eb`."""
    return f"{prefix}_{uuid7().hex}"
