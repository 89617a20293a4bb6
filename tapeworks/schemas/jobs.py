"""What a user sees: the job object, its states, events, logs, metrics and artifacts.

These models are the service's answers and the client's return types. Unlike specs they are open:
a newer service may add fields, an older client ignores them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, PlainSerializer

from tapeworks.errors import FailureCode
from tapeworks.spec.job_spec import JobSpec
from tapeworks.spec.references import Kind


class State(StrEnum):
    """Where a job stands. Only the service's queue changes it."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    EXPORTING = "exporting"
    VERIFYING = "verifying"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
HELD = (State.STARTING, State.RUNNING, State.EXPORTING, State.VERIFYING)
"""States in which a worker holds the job, in the order in which an attempt passes through them."""


class Requested(StrEnum):
    """What a user asked a running job to do; it takes effect at the next call boundary."""

    NONE = "none"
    CANCEL = "cancel"
    PAUSE = "pause"


class JobKind(StrEnum):
    """What a row of the queue is: users see `train`."""

    TRAIN = "train"
    VALIDATE = "validate"
    ADMIT = "admit"
    INSPECT = "inspect"


def _from_text(value: Any) -> Any:
    return float(value) if isinstance(value, str) else value


def json_number(value: float) -> float | str:
    """JSON has no NaN: a value that is not finite is written as a string."""
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return value


Number = Annotated[
    float,
    BeforeValidator(_from_text, json_schema_input_type=float | Literal["NaN", "Infinity", "-Infinity"]),
    PlainSerializer(json_number, return_type=float | Literal["NaN", "Infinity", "-Infinity"], when_used="json"),
]
"""A metric's value: a float, or "NaN", "Infinity", "-Infinity" in JSON."""


class ResponseModel(BaseModel):
    """A part of an answer: unknown fields are kept out, never an error."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)


class Progress(ResponseModel):
    """How far the newest attempt has come."""

    step: int = 0
    total_steps: int | None = None
    epoch: int = 0
    """Epochs finished."""
    epochs: int | None = None
    examples_per_second: float | None = None
    eta_seconds: float | None = None


class FailureLocation(ResponseModel):
    """The place in a user's source that a failure points at."""

    file: str | None = None
    line: int | None = None
    component: str | None = None


class Failure(ResponseModel):
    """Why a job, or one attempt of it, failed."""

    code: FailureCode
    message: str
    hint: str = ""
    phase: str | None = None
    attempt: int | None = None
    retryable: bool = False
    location: FailureLocation | None = None
    traceback_tail: str | None = None


class Transition(ResponseModel):
    """One step of the job's history; the first is `queued`."""

    state: State
    phase: str | None = None
    attempt: int
    at: datetime
    message: str | None = None


class Checkpoint(ResponseModel):
    """A checkpoint that was uploaded and announced."""

    id: str
    step: int
    epoch: int
    attempt: int
    created_at: datetime
    bytes: int
    sha256: str
    metrics: dict[str, Number] = Field(default_factory=dict)
    best: bool = False


class Checkpoints(ResponseModel):
    """The checkpoints that the job would go on from."""

    latest: Checkpoint | None = None
    best: Checkpoint | None = None


class ModelSummary(ResponseModel):
    """The published bundle."""

    bytes: int
    sha256: str
    formats: list[str]
    verified: dict[str, JsonValue]
    """The certificate: what was compared after the reload, how close, in which versions."""


class Unschedulable(ResponseModel):
    """Why no registered worker fits a queued job."""

    reason: str


class Job(ResponseModel):
    """A job as the service tells it."""

    id: str
    object: Literal["job"] = "job"
    kind: JobKind = JobKind.TRAIN
    revision: int
    """Moves on with every change; the ETag."""
    name: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    owner: str | None = None
    """Name of the key that submitted it; None where no key was needed."""
    priority: int = 0
    spec: JobSpec | None
    """None where the job has none: it inspects a dataset or admits a package."""
    state: State
    requested: Requested = Requested.NONE
    waiting_for: list[str] = Field(default_factory=list)
    unschedulable: Unschedulable | None = None
    phase: str | None = None
    transitions: list[Transition] = Field(default_factory=list)
    progress: Progress = Progress()
    metrics: dict[str, Number] = Field(default_factory=dict)
    """The last value of each metric."""
    best: dict[str, JsonValue] | None = None
    attempt: int = 0
    failed_attempts: int = 0
    max_attempts: int
    worker: str | None = None
    created_at: datetime
    queued_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    failure: Failure | None = None
    checkpoints: Checkpoints = Checkpoints()
    model: ModelSummary | None = None
    result: dict[str, JsonValue] | None = None
    diagnostics: dict[str, JsonValue] = Field(default_factory=dict)
    lineage: dict[str, JsonValue] = Field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether the state is final."""
        return self.state in FINAL

    def html(self, curves: Mapping[str, Sequence[tuple[int, float]]] | None = None, note: str | None = None) -> str:
        """The job as HTML for a notebook. `curves`: (step, value) by metric; `note`: a line beside the failure's."""
        from tapeworks.schemas.job_html import job_html

        done, of = self.progress.epoch, self.progress.epochs
        lines = [] if self.failure is None else [f"{self.failure.code.value}: {self.failure.message}"]
        return job_html(
            id=self.id,
            name=self.name,
            state=self.state.value,
            progress=f"epoch {done}" + (f" of {of}" if of is not None else ""),
            failure="\n".join([*lines, note] if note else lines) or None,
            metrics=self.metrics,
            curves=curves,
        )

    def _repr_html_(self) -> str:
        return self.html()


class Event(ResponseModel):
    """One thing that happened to a job. `seq` counts from 1 without gaps."""

    seq: int
    at: datetime
    attempt: int
    type: str
    """`state`, `requested`, `rewound`, `trace`, `epoch`, `checkpoint`, `diagnostic`, `attempt_failed`, …"""
    data: dict[str, JsonValue] = Field(default_factory=dict)


class LogLine(ResponseModel):
    """A line that a runner printed."""

    seq: int
    at: datetime
    attempt: int
    stream: Literal["stdout", "stderr"]
    text: str


MetricBucket = tuple[int, int, int, float | None, float | None, Number, int, int, float]
"""First step, last step, number of points, min and max of the finite values (null if there is none), last value, number
of NaN, number of infinities, time of the last point in seconds after `origin`."""


class MetricSeries(ResponseModel):
    """The points of one metric: (step, value, time), ordered by step, the newest attempt's for each step."""

    name: str
    points: list[tuple[int, Number, datetime]] = Field(default_factory=list)
    """Empty where buckets were asked for."""
    buckets: list[MetricBucket] | None = None
    """With `?buckets=`: of the series' points in the range, ordered by step."""
    width: int | None = None
    """Steps of a bucket: bucket n of a series holds the steps n·width to (n+1)·width - 1; 1 is single points."""
    low_step: int | None = None
    high_step: int | None = None
    """Of all points of the series."""


class MetricSeriesList(ResponseModel):
    """All metrics of a job."""

    data: list[MetricSeries]
    seq: int | None = None
    """With `?buckets=`: number of the last point that is in them; a stream continues with `?after=`."""
    origin: datetime | None = None
    """With `?buckets=`: what the buckets' times are counted from."""


class Artifact(ResponseModel):
    """A file that a job left."""

    path: str
    bytes: int
    sha256: str
    attempt: int
    created_at: datetime


class ComponentEntry(ResponseModel):
    """One version of a component, as a worker announces it and the catalogue shows it."""

    kind: Kind
    name: str
    version: str = "1"
    digest: str
    """sha-256 of its source (of Keras' version for Keras' own classes)."""
    config_schema: dict[str, JsonValue] = Field(default_factory=dict)
    """JSON Schema of the config. `x-kind` on a property says which kind a reference there must be."""
    doc: str = ""
    roles: dict[str, JsonValue] | None = None
    """Of a step: {models: [role], optimizers: {name: [role]}, losses: [name], frozen: [role],
    validation_step: bool}. None where __init__ decides."""
    batched: bool | None = None
    """Of a source: whether its elements are batches already."""
    undirected: str | None = None
    """Of a function metric without a declared direction: the name of its value, for which mode "auto" is refused."""
    warnings: list[str] = Field(default_factory=list)


class RefusedComponent(ResponseModel):
    """A component that did not pass admission, and why."""

    kind: Kind | None = None
    name: str
    version: str = "1"
    reason: str
    code: FailureCode = FailureCode.COMPONENT_ERROR
    hint: str = ""
    """What to change, where more than the reason is known."""


class ComponentInfo(ComponentEntry):
    """A catalogue entry with the workers that have it."""

    workers: list[str] = Field(default_factory=list)
    package: str | None = None
    """The uploaded package that brings it."""


class Device(ResponseModel):
    """A device of a worker. `id` is opaque: a MIG slice fits."""

    id: str
    kind: Literal["gpu", "cpu"]
    name: str = ""
    parent: str | None = None
    memory_bytes: int | None = None
    memory_used_bytes: int | None = None
    utilization: float | None = None
    """0 … 1."""
    job_id: str | None = None
    """What runs there."""


class WorkerInfo(ResponseModel):
    """A worker as the service knows it."""

    id: str
    state: Literal["ready", "draining", "lost"]
    labels: dict[str, str] = Field(default_factory=dict)
    devices: list[Device] = Field(default_factory=list)
    versions: dict[str, str] = Field(default_factory=dict)
    jobs: list[str] = Field(default_factory=list)
    registered_at: datetime
    heartbeat_at: datetime
    refused: list[RefusedComponent] = Field(default_factory=list)
    packages: bool = False
    """Whether it takes jobs with uploaded packages."""
    sandbox: dict[str, str] = Field(default_factory=dict)
    """Layer → `on`, or why it is not there."""


class ValidationResult(ResponseModel):
    """What `POST /v1/jobs/validate` answers for a spec that can be queued."""

    valid: Literal[True] = True
    spec: JobSpec
    """The canonical form, versions resolved."""
    warnings: list[str] = Field(default_factory=list)


T = TypeVar("T")


class Page(ResponseModel, Generic[T]):
    """A page of a list; `next` goes into `after` of the next request."""

    data: list[T]
    has_more: bool = False
    next: str | None = None
