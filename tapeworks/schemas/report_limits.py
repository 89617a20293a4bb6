"""How much an attempt may report: counted by its worker, and by the service again over all attempts of a job.

A sandboxed job writes what its worker reads, and a worker writes what the service stores. Neither side relies on the
other to stop. `docs/limits.md` lists the limits with their reasons.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, get_args, get_type_hints

MIB = 1024 * 1024

MAX_FRAME_BYTES = MIB
"""Of one frame from a runner or verifier to its agent. The service takes no longer body."""
MAX_RECORD_BYTES = 256 * 1024
"""Of one frame with a record or a checkpoint."""
MAX_FRAME_CONTAINERS, MAX_FRAME_ITEMS = 32_768, 131_072
"""Opening brackets and commas in a frame: what parsing costs depends on them."""
MAX_DOCUMENT_BYTES = MIB
"""Of the facts that a job object holds: best, diagnostics, lineage."""
MAX_FILE_LIST_BYTES = 768 * 1024
"""Of the list of further artifacts, with their paths and digests: it is part of the request that ends an attempt."""
MAX_METRIC_NAMES = 4_096
"""Of one job."""


@dataclass(frozen=True)
class ReportLimits:
    """Totals of one attempt, and the rates at which its worker reads. `reason` of each: see `reasons`."""

    frame_bytes: Annotated[int, "twelve days at the full rate, a year at thirty reports per second"] = 1 << 40
    records: Annotated[int, "a progress report each second for half a year, and everything below"] = 25_000_000
    events: Annotated[int, "a million epochs leave an event each; phases are events too"] = 2_000_000
    event_bytes: Annotated[int, "events are stored as JSON and sent to every watcher of the job"] = 512 * MIB
    log_lines: Annotated[int, "three weeks at one line per second; further lines are dropped"] = 2_000_000
    log_bytes: Annotated[int, "total size of the log lines; further lines are dropped"] = 256 * MIB
    points: Annotated[int, "a million epochs with five metrics; further points are dropped"] = 5_000_000
    checkpoints: Annotated[int, "one per minute for two months; the oldest are removed first"] = 100_000
    uploads: Annotated[int, "files that an attempt is uploading or has stored at one time"] = 20_000
    verifications: Annotated[int, "an export is verified twice, a resumed checkpoint once"] = 32
    invalid_frames: Annotated[int, "a runner of this version sends no such message"] = 100
    frames_per_second: Annotated[int, "one metric per step at 1000 steps per second; a faster job waits"] = 2_000
    bytes_per_second: Annotated[int, "1000 bytes per step at 1000 steps per second; a faster job waits"] = MIB
    frames_at_once: Annotated[int, "burst of frames allowed before frames_per_second applies"] = 20_000
    bytes_at_once: Annotated[int, "burst of bytes allowed before bytes_per_second applies"] = 16 * MIB


LIMITS = ReportLimits()


def reasons() -> dict[str, str]:
    """The reason of each limit."""
    hints = get_type_hints(ReportLimits, include_extras=True)
    return {field.name: str(get_args(hints[field.name])[1]) for field in fields(ReportLimits)}
