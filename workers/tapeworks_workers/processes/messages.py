"""The messages between an agent and its runner, typed and bounded. `frames` carries them.

| from | type | content |
|---|---|---|
| agent | `start` | the job, the attempt's folder, and where its inputs, uploads, fetched data and checkpoints are |
| agent | `command` | what a user or the worker asked for |
| agent | a reply | the answer to `certify` or `verify`, with the request's id as `reply` |
| runner | `record` | a record of `tapeworks.schemas.worker_protocol`, without its index and time |
| runner | `checkpoint` | the path of a checkpoint below the attempt's folder, its step, epoch and metrics |
| runner | `certify` | the bundle is written: a request for its verification; it is answered |
| runner | `verify` | a request for the test of a checkpoint; it is answered |
| runner | `finish` | the outcome, and the result of a validation or inspection; the last frame |

A runner is hostile: the agent uses nothing of its frames before `parse` has passed it, nor of a verifier's answer
before it is a `VerifierAnswer`. The agent is trusted by its runner. A frame carries no descriptors: the agent reads
without ancillary data, and the kernel closes what was sent with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from tapeworks.bounds import INT64
from tapeworks.schemas.assets import DataFormat
from tapeworks.schemas.jobs import Failure, JobKind, Number
from tapeworks.schemas.report_limits import MAX_METRIC_NAMES, MAX_RECORD_BYTES
from tapeworks.schemas.worker_protocol import CommandName, Lease, PinnedComponent
from tapeworks.spec.job_spec import JobSpec
from tapeworks_workers.processes.frames import InvalidFrame, check_structure

__all__ = [
    "CertifyFrame", "CheckpointFrame", "CommandFrame", "FetchedFiles", "FinishFrame", "InputFile", "InvalidFrame",
    "LeasedJob", "QueryRows", "RecordFrame", "Reply", "ResumeFile", "RunnerFrame", "StartFrame", "UploadedDataset",
    "VerifierAnswer", "VerifyFrame", "parse",
]  # fmt: skip

Count = Annotated[int, Field(ge=0, le=INT64)]
MAX_FILES = 10_000
"""Further artifacts of an attempt."""
Metrics = Annotated[dict[str, Number], Field(max_length=MAX_METRIC_NAMES)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    def document(self) -> dict[str, Any]:
        """The message for `frames.encode`, which writes numbers that are not finite."""
        return self.model_dump(by_alias=True)


# ── from the agent ───────────────────────────────────────────────────────────────────────────────


class LeasedJob(_Message):
    """What a runner needs to know of its lease. It has no token: a runner calls no service."""

    kind: JobKind
    attempt: int
    spec: JobSpec | None
    """None: the kind says what is done with the one upload."""
    components: list[PinnedComponent] = Field(default_factory=list)
    timeout_seconds: float | None = None

    @classmethod
    def of(cls, lease: Lease) -> LeasedJob:
        """The part of a lease that a runner gets."""
        return cls(
            kind=lease.kind, attempt=lease.attempt, spec=lease.spec, components=lease.components,
            timeout_seconds=lease.timeout_seconds,
        )  # fmt: skip


class InputFile(_Message):
    """A bundle or checkpoint that the spec names, downloaded."""

    from_: Annotated[str, Field(alias="from")]
    kind: Literal["bundle", "checkpoint"]
    path: Path
    """Relative to the attempt's folder."""


class UploadedDataset(_Message):
    """An uploaded dataset that the spec names, unpacked."""

    id: str
    path: Path
    format: DataFormat
    options: dict[str, Any] = Field(default_factory=dict)
    """Those of the push, as arguments of the source."""


class FetchedFiles(_Message):
    """Remote files that the worker fetched."""

    from_: Annotated[str, Field(alias="from")]
    """The address or pattern, as in the spec."""
    paths: list[Path]
    """In the order of their addresses."""


class QueryRows(_Message):
    """The rows of a query that the worker ran."""

    connection: str
    query: str
    paths: Annotated[list[Path], Field(min_length=1)]
    """An Arrow file."""


class ResumeFile(_Message):
    """A checkpoint of an earlier attempt, downloaded."""

    path: Path
    checkpoint_id: str | None = None
    step: int | None = None
    epoch: int | None = None


class StartFrame(_Message):
    """The first message to a runner: all that it is given."""

    type: Literal["start"] = "start"
    lease: LeasedJob
    folder: Path
    """The attempt's folder."""
    data_roots: list[Path] = Field(default_factory=list)
    compiled: Path | None = None
    """Where programs and measurements of earlier jobs are kept."""
    reserve_bytes: int = 0
    """Of the folder's disk, left free by checkpoints."""
    inputs: list[InputFile] = Field(default_factory=list)
    uploads: list[UploadedDataset] = Field(default_factory=list)
    external: list[FetchedFiles | QueryRows] = Field(default_factory=list)
    resume: list[ResumeFile] = Field(default_factory=list)
    """Newest first."""

    def document(self) -> dict[str, Any]:
        """The message as JSON."""
        return self.model_dump(mode="json", by_alias=True)


class CommandFrame(_Message):
    """What a user or the worker asked for while the job runs."""

    type: Literal["command"] = "command"
    command: CommandName


class VerifierAnswer(_Message):
    """What a verifier found. One that ran in a sandbox is as hostile as the runner."""

    ok: bool
    failure: Failure | None = None
    """Given unless `ok`."""
    report: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_a_failure(self) -> Self:
        if self.ok != (self.failure is None):
            raise ValueError("an answer has a failure unless it is ok")
        return self

    def reply_to(self, request: int) -> Reply:
        """The same as the reply to a request of the runner."""
        return Reply(reply=request, ok=self.ok, failure=self.failure, report=self.report)


class Reply(VerifierAnswer):
    """The answer to a request of the runner."""

    reply: int
    """The request's id."""


# ── from the runner ──────────────────────────────────────────────────────────────────────────────


class RecordFrame(_Message):
    """Validated as a record by the attempt, which replaces an invalid one with a note."""

    type: Literal["record"] = "record"
    record: dict[str, Any]


class CheckpointFrame(_Message):
    """A checkpoint that is complete on disk."""

    type: Literal["checkpoint"] = "checkpoint"
    path: Annotated[str, Field(max_length=1_000)]
    step: Count
    epoch: Count
    metrics: Metrics = Field(default_factory=dict)
    best: bool = False


class CertifyFrame(_Message):
    """The bundle is written: a request for its verification. The answer has its id as `reply`."""

    type: Literal["certify"] = "certify"
    id: Count


class VerifyFrame(_Message):
    """A request for the test of a checkpoint; the answer has its id as `reply`."""

    type: Literal["verify"] = "verify"
    id: Count
    verifier: Annotated[str, Field(max_length=64)]
    bundle: Annotated[str, Field(max_length=255)]


class FinishFrame(_Message):
    """The end of an attempt as its runner reports it. The agent checks and publishes it."""

    type: Literal["finish"] = "finish"
    outcome: Annotated[str, Field(max_length=64)]
    failure: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    files: Annotated[list[str], Field(max_length=MAX_FILES)] | None = None
    metrics: dict[str, Any] | None = None
    facts: dict[str, Any] | None = None


RunnerFrame = RecordFrame | CheckpointFrame | CertifyFrame | VerifyFrame | FinishFrame
_RUNNER_FRAME: TypeAdapter[RunnerFrame] = TypeAdapter(Annotated[RunnerFrame, Field(discriminator="type")])


def parse(body: bytes) -> RunnerFrame:
    """The frame of a runner in these bytes. Raises InvalidFrame."""
    check_structure(body)
    try:
        frame = _RUNNER_FRAME.validate_json(body)
    except ValidationError as error:
        raise InvalidFrame(_first_errors(error)) from error
    if len(body) > MAX_RECORD_BYTES and not isinstance(frame, FinishFrame):
        raise InvalidFrame(f"a {frame.type} frame must be at most {MAX_RECORD_BYTES} bytes, got {len(body)}")
    return frame


def _first_errors(error: ValidationError) -> str:
    """The first errors, without the input."""
    found = error.errors(include_url=False, include_input=False, include_context=False)[:3]
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}"[:300] for one in found)
