"""Every table. What hangs on a job has a `project_id`, and its keys begin with it.

Fields that nobody queries live in JSON columns: `jobs.document` holds the parts of the job object
that only its reader needs.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
Serial = BigInteger().with_variant(Integer(), "sqlite")
Json = JSON(none_as_null=True)

installation = Table(
    "installation",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
"""What this installation alone knows: `lease_secret`, and the last `clock_step` that was accounted for."""

projects = Table(
    "projects",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("created_at", Double, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("project_id", String(64), ForeignKey("projects.id"), nullable=False),
    Column("name", String(200), nullable=False),
    Column("key_hash", String(64), nullable=False, unique=True),
    Column("scopes", Json, nullable=False),
    Column("from_settings", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("last_used_at", Double),
    Column("revoked_at", Double),
)

sessions = Table(
    "sessions",
    metadata,
    Column("token_hash", String(64), primary_key=True),
    Column("key_id", String(64), ForeignKey("api_keys.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
)
"""Of the web page: whose key each was begun with."""

jobs = Table(
    "jobs",
    metadata,
    # The order of submission comes from the database, not from a clock.
    Column("queue_seq", Serial, primary_key=True, autoincrement=True),
    Column("project_id", String(64), ForeignKey("projects.id"), nullable=False),
    Column("id", String(64), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("name", String(200)),
    Column("labels", Json, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("fair_rank", BigInteger, nullable=False),
    Column("fit_key", String(64), ForeignKey("fits.fit_key"), nullable=False),
    Column("parent_id", String(64)),
    Column("retry_of", String(64)),
    Column("owner", String(200)),  # the name of the key that submitted it
    Column("idempotency_key", String(255)),
    Column("body_hash", String(64)),
    # Written by jobs/queue.py alone:
    Column("state", String(16), nullable=False),
    Column("requested", String(16), nullable=False),
    Column("phase", String(64)),
    Column("attempt", Integer, nullable=False),
    Column("failed_attempts", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("worker_id", String(100)),
    Column("gpus", Integer, nullable=False),
    Column("token_hash", String(64)),
    Column("lease_expires_at", Double),
    Column("not_before", Double),
    # How many of the job's inputs other jobs have yet to leave: it is claimed at 0.
    Column("waiting", Integer, nullable=False, server_default="0"),
    Column("ended_attempt", Integer),
    Column("ended_token_hash", String(64)),
    Column("ended_body_hash", String(64)),
    # Time:
    Column("timeout_seconds", Double),
    Column("created_at", Double, nullable=False),
    Column("queued_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    # What readers count by:
    Column("revision", BigInteger, nullable=False),
    Column("event_seq", BigInteger, nullable=False),
    Column("log_seq", BigInteger, nullable=False),
    Column("metric_seq", BigInteger, nullable=False),
    Column("metric_built", BigInteger, nullable=False, server_default="0"),
    Column("record_index", BigInteger, nullable=False),
    # What its attempts stored, against their quotas:
    Column("event_bytes", BigInteger, nullable=False, server_default="0"),
    Column("log_bytes", BigInteger, nullable=False, server_default="0"),
    # What nobody queries:
    Column("progress", Json, nullable=False),
    Column("spec", Json, nullable=False),
    Column("components", Json, nullable=False),
    Column("document", Json, nullable=False),
    UniqueConstraint("project_id", "id"),
    UniqueConstraint("project_id", "idempotency_key"),
    sqlite_autoincrement=True,
)
_turn = (jobs.c.priority.desc(), jobs.c.fair_rank, jobs.c.queue_seq)
Index("ix_jobs_claim", jobs.c.state, jobs.c.waiting, jobs.c.fit_key, *_turn)
Index("ix_jobs_round", jobs.c.state, jobs.c.waiting, jobs.c.priority, jobs.c.fair_rank)
Index("ix_jobs_fair", jobs.c.project_id, jobs.c.state, jobs.c.waiting, jobs.c.priority, jobs.c.fair_rank)
Index("ix_jobs_list", jobs.c.project_id, jobs.c.kind, jobs.c.queue_seq)
Index("ix_jobs_list_state", jobs.c.project_id, jobs.c.kind, jobs.c.state, jobs.c.queue_seq)
Index("ix_jobs_name", jobs.c.project_id, jobs.c.name, jobs.c.queue_seq)
Index("ix_jobs_owner", jobs.c.project_id, jobs.c.owner, jobs.c.queue_seq)
Index("ix_jobs_lease", jobs.c.state, jobs.c.lease_expires_at)
Index("ix_jobs_started", jobs.c.state, jobs.c.started_at)

fits = Table(
    "fits",
    metadata,
    Column("fit_key", String(64), primary_key=True),
    Column("needs", Json, nullable=False),
)
"""What jobs need of a worker, by its hash: the claim asks for keys, so it does not grow with the queue."""


def _of_job(name: str, *columns: Column[object], key: tuple[str, ...]) -> Table:
    """A table whose rows hang on a job and go with it."""
    own = [
        Column("project_id", String(64), primary_key="project_id" in key, nullable=False),
        Column("job_id", String(64), primary_key="job_id" in key, nullable=False),
    ]
    constraint = ForeignKeyConstraint(["project_id", "job_id"], ["jobs.project_id", "jobs.id"], ondelete="CASCADE")
    return Table(name, metadata, *own, *columns, constraint)


job_labels = _of_job(
    "job_labels",
    Column("name", String(200), primary_key=True),
    Column("value", String(200), nullable=False),
    key=("project_id", "job_id"),
)
Index("ix_job_labels_find", job_labels.c.project_id, job_labels.c.name, job_labels.c.value, job_labels.c.job_id)

events = _of_job(
    "events",
    Column("seq", BigInteger, primary_key=True),
    Column("at", Double, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("type", String(64), nullable=False),
    Column("data", Json, nullable=False),
    key=("project_id", "job_id"),
)

logs = _of_job(
    "logs",
    Column("seq", BigInteger, primary_key=True),
    Column("at", Double, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("stream", String(8), nullable=False),
    Column("text", Text, nullable=False),
    key=("project_id", "job_id"),
)

metric_points = _of_job(
    "metric_points",
    Column("seq", BigInteger, primary_key=True),
    Column("at", Double, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("name", String(200), nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("value", Double),  # NULL is NaN: SQLite has none
    key=("project_id", "job_id"),
)
Index(
    "ix_metric_points_series",
    metric_points.c.project_id,
    metric_points.c.job_id,
    metric_points.c.name,
    metric_points.c.step,
    metric_points.c.attempt,
)

metric_series = _of_job(
    "metric_series",
    Column("name", String(200), primary_key=True),
    Column("width", BigInteger, nullable=False),
    Column("low_step", BigInteger, nullable=False),
    Column("high_step", BigInteger, nullable=False),
    key=("project_id", "job_id"),
)
metric_buckets = _of_job(
    "metric_buckets",
    Column("name", String(200), primary_key=True),
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("first_step", BigInteger, nullable=False),
    Column("last_step", BigInteger, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("nans", BigInteger, nullable=False),
    Column("infinities", BigInteger, nullable=False),
    Column("low", Double),
    Column("high", Double),
    Column("last", Double),
    Column("at", Double, nullable=False),
    key=("project_id", "job_id"),
)
"""What `queue/metric_buckets.py` makes of the points up to the number `jobs.metric_built`."""

checkpoints = _of_job(
    "checkpoints",
    Column("id", String(64), primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("key", String(1000), nullable=False),
    Column("metrics", Json, nullable=False),
    Column("best", Boolean, nullable=False),
    Column("upload_id", String(64), nullable=False, unique=True),
    Column("created_at", Double, nullable=False),
    key=("project_id", "job_id"),
)

artifacts = _of_job(
    "artifacts",
    Column("path", String(1000), primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("role", String(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("key", String(1000), nullable=False),
    Column("created_at", Double, nullable=False),
    key=("project_id", "job_id"),
)
"""Published files; `role` is `bundle`, `keras`, `saved_model` or `file`."""

job_inputs = _of_job(
    "job_inputs",
    Column("index", Integer, primary_key=True),
    Column("reference", String(64), nullable=False),
    Column("source_id", String(64), nullable=False),
    Column("checkpoint_id", String(64)),
    Column("kind", String(16)),
    Column("bytes", BigInteger),
    Column("sha256", String(64)),
    Column("key", String(1000)),
    Column("resume", Boolean, nullable=False, server_default=false()),
    key=("project_id", "job_id"),
)
"""What a job reads: `reference` as its spec has it, of the job or asset `source_id`. Pinned to one file, of the `kind`
`bundle`, `checkpoint`, `dataset` or `package`; without a kind it waits for that job. `resume`: no input of the spec
but the checkpoint that a retry goes on from."""
Index("ix_job_inputs_source", job_inputs.c.project_id, job_inputs.c.source_id)

uploads = Table(
    "uploads",
    metadata,
    Column("project_id", String(64), primary_key=True),
    Column("job_id", String(64)),
    Column("id", String(64), primary_key=True),
    Column("attempt", Integer),
    Column("path", String(1000)),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("part_bytes", BigInteger, nullable=False),
    Column("key", String(1000), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("completed_at", Double),
    ForeignKeyConstraint(["project_id", "job_id"], ["jobs.project_id", "jobs.id"], ondelete="CASCADE"),
)
"""Of an attempt, or of a project alone: then `job_id`, `attempt` and `path` are null, and its bytes are known once."""
Index("ix_uploads_file", uploads.c.project_id, uploads.c.job_id, uploads.c.attempt, uploads.c.path)
_of_project = uploads.c.job_id.is_(None)
Index(
    "ix_uploads_content", uploads.c.project_id, uploads.c.sha256, uploads.c.bytes,
    unique=True, sqlite_where=_of_project, postgresql_where=_of_project,
)  # fmt: skip

assets = Table(
    "assets",
    metadata,
    Column("asset_seq", Serial, primary_key=True, autoincrement=True),
    Column("project_id", String(64), ForeignKey("projects.id"), nullable=False),
    Column("id", String(64), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("name", String(100), nullable=False),
    Column("version", String(64), nullable=False),
    Column("format", String(16), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("key", String(1000), nullable=False),
    Column("job_id", String(64)),
    Column("document", Json, nullable=False),
    Column("created_at", Double, nullable=False),
    UniqueConstraint("project_id", "kind", "name", "version"),
    sqlite_autoincrement=True,
)
"""What a user uploaded and names: `kind` is `dataset`, `package` or `bundle`. `job_id`: the job that looks at it, whose
state and result are the asset's."""
Index("ix_assets_key", assets.c.project_id, assets.c.key)
Index("ix_assets_job", assets.c.job_id)

upload_parts = Table(
    "upload_parts",
    metadata,
    Column("upload_id", String(64), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
)

deletions = Table(
    "deletions",
    metadata,
    Column("prefix", String(1000), primary_key=True),
    Column("created_at", Double, nullable=False),
)
"""Store prefixes whose rows are gone: the files follow, and a crash in between forgets none."""

workers = Table(
    "workers",
    metadata,
    Column("id", String(100), primary_key=True),
    Column("devices", Json, nullable=False),
    Column("labels", Json, nullable=False),
    Column("versions", Json, nullable=False),
    Column("cpus", Integer, nullable=False),
    Column("memory_bytes", BigInteger),
    Column("catalogue_digest", String(64), nullable=False),
    Column("packages", Boolean, nullable=False, server_default=false()),
    Column("sandbox", Json, nullable=False, server_default="{}"),
    Column("draining", Boolean, nullable=False),
    Column("registered_at", Double, nullable=False),
    Column("heartbeat_at", Double, nullable=False),
)

catalogues = Table(
    "catalogues",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("document", Json, nullable=False),
    Column("created_at", Double, nullable=False),
)

lease_requests = Table(
    "lease_requests",
    metadata,
    Column("worker_id", String(100), primary_key=True),
    Column("request_id", String(200), primary_key=True),
    Column("job_id", String(64), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
)
"""Which lease a request was answered with, so that a resend gets the same."""
