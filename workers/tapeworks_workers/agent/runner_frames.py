"""What a runner may send to its agent, typed and bounded. Nothing in a frame is used before it has passed here.

| type | content |
|---|---|
| `record` | a record of `tapeworks.schemas.worker_protocol`, without its index and time |
| `checkpoint` | the path of a checkpoint below the attempt's folder, its step, epoch and metrics |
| `certify` | the bundle is written: a request for its verification; it is answered |
| `verify` | a request for the test of a checkpoint; it is answered |
| `finish` | the outcome, and the result of a validation or inspection; the last frame |

A frame carries no descriptors: the agent reads without ancillary data, and the kernel closes what was sent with it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from tapeworks.bounds import INT64
from tapeworks.schemas.jobs import Number
from tapeworks.schemas.report_limits import MAX_METRIC_NAMES, MAX_RECORD_BYTES
from tapeworks_workers.processes.frames import InvalidFrame, check_structure

__all__ = [
    "CertifyFrame", "CheckpointFrame", "FinishFrame", "Frame", "InvalidFrame", "RecordFrame", "VerifyFrame", "parse",
]  # fmt: skip

Count = Annotated[int, Field(ge=0, le=INT64)]
MAX_FILES = 10_000
"""Further artifacts of an attempt."""
Metrics = Annotated[dict[str, Number], Field(max_length=MAX_METRIC_NAMES)]


class _Frame(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class RecordFrame(_Frame):
    """Validated as a record by the attempt, which replaces an invalid one with a note."""

    type: Literal["record"]
    record: dict[str, Any]


class CheckpointFrame(_Frame):
    """A checkpoint that is complete on disk."""

    type: Literal["checkpoint"]
    path: Annotated[str, Field(max_length=1_000)]
    step: Count
    epoch: Count
    metrics: Metrics = Field(default_factory=dict)
    best: bool = False


class CertifyFrame(_Frame):
    """The bundle is written: a request for its verification. The answer has its id as `reply`."""

    type: Literal["certify"]
    id: Count


class VerifyFrame(_Frame):
    """A request for the test of a checkpoint; the answer has its id as `reply`."""

    type: Literal["verify"]
    id: Count
    verifier: Annotated[str, Field(max_length=64)]
    bundle: Annotated[str, Field(max_length=255)]


class FinishFrame(_Frame):
    """The end of an attempt as its runner reports it. The agent checks and publishes it."""

    type: Literal["finish"]
    outcome: Annotated[str, Field(max_length=64)]
    failure: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    files: Annotated[list[str], Field(max_length=MAX_FILES)] | None = None
    metrics: dict[str, Any] | None = None
    facts: dict[str, Any] | None = None


Frame = RecordFrame | CheckpointFrame | CertifyFrame | VerifyFrame | FinishFrame
_FRAME: TypeAdapter[Frame] = TypeAdapter(Annotated[Frame, Field(discriminator="type")])


def parse(body: bytes) -> Frame:
    """The frame in these bytes. Raises InvalidFrame."""
    check_structure(body)
    try:
        frame = _FRAME.validate_json(body)
    except ValidationError as error:
        raise InvalidFrame(_told(error)) from error
    if len(body) > MAX_RECORD_BYTES and not isinstance(frame, FinishFrame):
        raise InvalidFrame(f"a {frame.type} frame must be at most {MAX_RECORD_BYTES} bytes, got {len(body)}")
    return frame


def _told(error: ValidationError) -> str:
    """The first errors, without the input."""
    found = error.errors(include_url=False, include_input=False, include_context=False)[:3]
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}"[:300] for one in found)
