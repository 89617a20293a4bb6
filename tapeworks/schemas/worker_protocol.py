"""What a worker and the service say to each other.

Every call about an attempt carries the attempt's number in its path and the lease token in the
header `Tapeworks-Lease`. Workers get durations, never instants: time is the database's.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, PositiveInt, StringConstraints

from tapeworks.bounds import INT64
from tapeworks.schemas.jobs import ComponentEntry, Device, Failure, JobKind, Number, Progress, RefusedComponent, State
from tapeworks.schemas.report_limits import MAX_METRIC_NAMES
from tapeworks.spec.job_spec import JobSpec

LEASE_HEADER = "Tapeworks-Lease"
PART_BYTES = 8 * 1024 * 1024

Int64 = Annotated[int, Field(ge=-(2**63), le=INT64)]
"""What both databases store."""
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
ArtifactPath = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$")
]
"""Relative, forward slashes, no empty, hidden or `..` component."""
WorkerId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
CommandName = Literal["cancel", "pause", "checkpoint", "drain"]


class Message(BaseModel):
    """A message between worker and service: closed and immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# ── registration and leases ──────────────────────────────────────────────────────────────────────


class Catalogue(Message):
    """All components of a worker, known by the digest of its canonical JSON."""

    components: list[ComponentEntry]
    refused: list[RefusedComponent] = Field(default_factory=list)
    distributions: dict[str, str] = Field(default_factory=dict)
    """What is installed there, name → version: what an uploaded package may depend on."""


class Registration(Message):
    """Body of `PUT /v1/worker/{worker_id}`; repeated whenever something in it changes, and after a 404."""

    devices: list[Device]
    labels: dict[str, str] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    """`tapeworks`, `python`, `tensorflow`, `keras`."""
    cpus: int = 1
    memory_bytes: int | None = None
    packages: bool = False
    """Whether it takes jobs with uploaded packages."""
    sandbox: dict[str, str] = Field(default_factory=dict)
    """Layer → `on`, or why it is not there."""
    catalogue_digest: Sha256
    catalogue: Catalogue | None = None
    """Sent when the service answers `catalogue_needed`."""


class Registered(Message):
    """Answer to a registration."""

    catalogue_needed: bool
    heartbeat_seconds: float
    lease_seconds: float


class LeaseRequest(Message):
    """Body of `POST /v1/worker/leases`. The same `request_id` again gives the same lease."""

    worker_id: WorkerId
    request_id: str
    wait_seconds: Annotated[float, Field(ge=0, le=30)] = 30
    free_gpus: list[str] = Field(default_factory=list)
    """Ids of GPUs that nobody uses."""
    free_cpus: Annotated[int, Field(ge=0)] = 0
    """Cores that no runner holds."""


def cpus_held(wanted: int | None, *, cpus: int, slots: int) -> int:
    """The cores that a job on the CPU holds of a worker's: `wanted`, or a slot's even share where it does not say.

    Never more than all slots have, so that as many jobs that do not say run at once as there are slots.
    """
    share = max(1, cpus // max(1, slots))
    return min(wanted or share, slots * share)


class PinnedComponent(Message):
    """A component in the version that the job was accepted with."""

    kind: str
    name: str
    version: str
    digest: str


class ResumeFrom(Message):
    """The checkpoint that an attempt goes on from: `GET …/attempts/{n}/checkpoints/{id}` gives its bytes."""

    checkpoint_id: str
    step: int
    epoch: int
    bytes: int
    sha256: Sha256


class LeaseInput(Message):
    """A file that a job reads, in the form its spec names it: `GET …/attempts/{n}/inputs/{index}` gives its bytes."""

    from_: Annotated[str, Field(alias="from")]
    kind: Literal["bundle", "checkpoint", "dataset", "package"]
    """A `.tar.gz`, a `.tar`, a file or archive of any kind, a zip."""
    bytes: int
    sha256: Sha256
    about: dict[str, JsonValue] = Field(default_factory=dict)
    """Of an upload: its `name` and `version`; a dataset's `format`; a package's `root` and `modules`."""


class Lease(Message):
    """A job in the hands of a worker. Answer to a lease request; 204 when nothing fits in time."""

    job_id: str
    project_id: str
    kind: JobKind
    attempt: int
    token: str
    lease_seconds: float
    spec: JobSpec | None
    """None: the kind says what is done with the one input."""
    components: list[PinnedComponent] = Field(default_factory=list)
    resume: list[ResumeFrom] = Field(default_factory=list)
    """Newest first; the next one is for a digest that fails. Empty: from the start."""
    inputs: list[LeaseInput] = Field(default_factory=list)
    """Each job, checkpoint, dataset and bundle that the spec names, and the packages of its components, once."""
    fetched: list[dict[str, JsonValue]] = Field(default_factory=list)
    """Remote files and queries that an earlier attempt read, with their digests: they must be the same."""
    timeout_seconds: float | None = None
    """What is left of limits.timeout_seconds."""
    gpus: int = 0
    """How many of the free GPUs this lease takes; 0: it runs on the CPU."""


class Heartbeat(Message):
    """Body of `POST …/attempts/{n}/heartbeat`; extends the lease, or 409 `lease_lost`. It has no fields."""


class HeartbeatAnswer(Message):
    """How long the lease now holds, and what the user asked for meanwhile."""

    lease_seconds: float
    command: CommandName | None = None


class Command(Message):
    """Answer of `GET …/attempts/{n}/commands?wait=30`; 204 when nothing was asked."""

    command: CommandName


# ── records ──────────────────────────────────────────────────────────────────────────────────────


class EventRecord(Message):
    """Something that happened; becomes an event with the job's own seq."""

    index: int
    at_offset: float = 0.0
    """Seconds before the batch was sent (≥ 0); the service places it in its own time."""
    record: Literal["event"] = "event"
    type: str
    data: dict[str, JsonValue] = Field(default_factory=dict)


class LogRecord(Message):
    """A line that the runner printed."""

    index: int
    at_offset: float = 0.0
    record: Literal["log"] = "log"
    stream: Literal["stdout", "stderr"]
    text: Annotated[str, StringConstraints(max_length=16_384)]


class MetricRecord(Message):
    """Values of metrics at one step."""

    index: int
    at_offset: float = 0.0
    record: Literal["metric"] = "metric"
    step: Int64
    values: dict[str, Number]


class StateRecord(Message):
    """The attempt moved on. Only forward in starting → running → exporting → verifying; a phase may change freely."""

    index: int
    at_offset: float = 0.0
    record: Literal["state"] = "state"
    state: State
    phase: Annotated[str, StringConstraints(max_length=64)] | None = None
    message: Annotated[str, StringConstraints(max_length=1_000)] | None = None


class FactsRecord(Message):
    """What became known of the job: merged into these parts of the job object."""

    index: int
    at_offset: float = 0.0
    record: Literal["facts"] = "facts"
    progress: Progress | None = None
    best: dict[str, JsonValue] | None = None
    diagnostics: dict[str, JsonValue] = Field(default_factory=dict)
    lineage: dict[str, JsonValue] = Field(default_factory=dict)


Record = Annotated[EventRecord | LogRecord | MetricRecord | StateRecord | FactsRecord, Field(discriminator="record")]


class Records(Message):
    """Body of `POST …/attempts/{n}/records`. `index` counts from 1 within the attempt, without gaps;
    what was seen before is skipped."""

    records: list[Record] = Field(max_length=5_000)


class RecordsAnswer(Message):
    """The last index that is stored."""

    stored: int


# ── uploads, checkpoints, the end ────────────────────────────────────────────────────────────────


class UploadRequest(Message):
    """Body of `POST /v1/uploads`: of a project, or of an attempt, whose lease token goes into the header
    `Tapeworks-Lease`."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: Sha256
    job_id: str | None = None
    attempt: int | None = None
    path: ArtifactPath | None = None
    """Where the file belongs below the attempt's folder."""


class Upload(Message):
    """An upload: PUT each part (`/v1/uploads/{id}/parts/{n}`, n from 1) that is missing, then complete it."""

    id: str
    bytes: int
    sha256: Sha256
    part_bytes: PositiveInt
    parts: int
    missing: list[int]
    completed: bool = False


class CheckpointAnnouncement(Message):
    """Body of `POST …/attempts/{n}/checkpoints`: an uploaded file becomes a checkpoint of the job."""

    upload_id: str
    step: Int64
    epoch: Int64
    metrics: dict[str, Number] = Field(default_factory=dict, max_length=MAX_METRIC_NAMES)
    best: bool = False


class CheckpointAnnounced(Message):
    """The id under which the checkpoint is listed."""

    checkpoint_id: str


class ManifestFile(Message):
    """A file of a finished attempt, uploaded and complete."""

    path: ArtifactPath
    bytes: int
    sha256: Sha256
    upload_id: str


class Published(Message):
    """What a successful training attempt publishes."""

    bundle: ManifestFile | None = None
    """The `.tar.gz`; None where `export` is null or the kind of job leaves no model."""
    parts: dict[str, ManifestFile] = Field(default_factory=dict)
    """`keras` and `saved_model`: archives of that part of the bundle alone."""
    formats: list[str] = Field(default_factory=list)
    verified: dict[str, JsonValue] = Field(default_factory=dict)
    result: dict[str, JsonValue] | None = None


class Finish(Message):
    """Body of `POST …/attempts/{n}/finish`; the same token and body again is 200."""

    outcome: Literal["succeeded", "failed", "cancelled", "paused", "released"]
    """`released`: handed back to the queue (drain), costs no attempt."""
    published: Published | None = None
    failure: Failure | None = None
    files: list[ManifestFile] = Field(default_factory=list)
    """Further artifacts: callbacks' files, a black box."""
    metrics: dict[str, Number] = Field(default_factory=dict)
    facts: dict[str, Any] = Field(default_factory=dict)
    """`best`, `diagnostics`, `lineage` as in a facts record."""
    last_record: int = 0
    """Index of the attempt's last record: the finish is taken only when all are stored."""
