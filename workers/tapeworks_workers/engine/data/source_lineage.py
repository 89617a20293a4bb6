"""The files that a job read, for its lineage: each with its digest."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tapeworks_workers.engine.data.sources import BranchNode, SourceNode

LISTED_BYTES = 32 * 1024
"""Of the files that the lineage lists for one split."""


def lineage(origin: SourceNode | BranchNode, digest: Callable[[Path], str]) -> dict[str, Any]:
    """The component, and the files that it and the sources inside it read; `skipped`: why some are left out.

    A job object holds no list of 100,000 images: what is longer is cut, and `file_count` and `sha256` (of the lines
    "digest  name" of all files, as sha256sum writes them) stand for all.
    """
    files = {file: None for _, source in origin.named_sources() for file in source.files()}
    skipped = [reason for _, source in origin.named_sources() for reason in source.skipped()]
    entries = [{"name": file.name, "bytes": file.stat().st_size, "sha256": digest(file)} for file in files]
    listed = _first(entries)
    entry: dict[str, Any] = {
        "component": origin.reference.component,
        "version": origin.reference.version,
        "files": listed,
    }
    if len(listed) < len(entries):
        lines = "".join(f"{one['sha256']}  {one['name']}\n" for one in entries)
        entry |= {"file_count": len(entries), "sha256": hashlib.sha256(lines.encode()).hexdigest()}
    return {**entry, "skipped": _first(skipped), "skipped_count": len(skipped)} if skipped else entry


def _first(entries: list[Any]) -> list[Any]:
    """As many as a job object holds."""
    sizes = itertools.accumulate(len(json.dumps(one)) for one in entries)
    return entries[: sum(1 for size in sizes if size <= LISTED_BYTES)]
