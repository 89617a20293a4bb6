"""What a job reads from elsewhere than uploads and data roots: remote files and rows of databases.

The agent fetches both before the runner starts, since a sandbox has neither a network nor credentials. Digests go into
the job's lineage (`fetched`); a later attempt gets them with its lease and refuses what has changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tapeworks.schemas import worker_protocol
from tapeworks_workers.inputs.remote_files import RemoteFiles
from tapeworks_workers.inputs.sql_queries import SqlQueries, queries
from tapeworks_workers.inputs.upload_cache import Cache, CachedUpload
from tapeworks_workers.processes.messages import FetchedFiles, QueryRows
from tapeworks_workers.remote_urls import normalised, patterns
from tapeworks_workers.settings import WorkerSettings


@dataclass
class Fetched:
    """What was fetched for one attempt."""

    files: list[FetchedFiles | QueryRows] = field(default_factory=list)
    """For the start frame."""
    lineage: list[dict[str, Any]] = field(default_factory=list)
    kept: list[CachedUpload] = field(default_factory=list)


@dataclass(frozen=True)
class ExternalData:
    """What this worker may fetch."""

    remote: RemoteFiles
    sql: SqlQueries

    @classmethod
    def of(cls, settings: WorkerSettings, cache: Cache) -> ExternalData:
        """By the operator's settings."""
        remote = RemoteFiles(
            [normalised(one) for one in settings.remote_files], cache, private=settings.remote_private,
            most_bytes=settings.remote_bytes, seconds=settings.remote_seconds,
        )  # fmt: skip
        sql = SqlQueries(
            cache, settings.connections_file, settings.query_rows, settings.query_bytes, settings.query_seconds
        )
        return cls(remote, sql)

    async def fetch(self, lease: worker_protocol.Lease, into: Fetched) -> None:
        """Fetch all that a lease's spec names. Raises JobFailure."""
        if lease.spec is None:
            return
        data = lease.spec.document()["data"]
        for pattern in patterns(data):
            pins = next((one.get("files") for one in lease.fetched if one.get("from") == pattern), None)
            known: Any = pins if isinstance(pins, list) else None
            files = await self.remote.fetch(lease.project_id, pattern, known)
            into.kept += [one.kept for one in files]
            into.files.append(FetchedFiles(from_=pattern, paths=[one.path for one in files]))
            into.lineage.append({"from": pattern, "files": [one.pinned() for one in files]})
        for connection, query in queries(data):
            earlier = (one for one in lease.fetched if (one.get("connection"), one.get("query")) == (connection, query))
            rows = await self.sql.fetch(lease.project_id, lease.job_id, connection, query, next(earlier, None))
            into.kept.append(rows.kept)
            into.files.append(QueryRows(connection=connection, query=query, paths=[rows.path]))
            into.lineage.append(rows.pinned())
