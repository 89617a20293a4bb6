"""What of a job its pipelines need to know."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tapeworks_workers.engine.data.checks.resume_warnings import Remarks
from tapeworks_workers.engine.factory.build_context import BuildContext
from tapeworks_workers.engine.graph.randomness import derive_seed


@dataclass(frozen=True)
class PipelineContext:
    """What of the job a pipeline needs to know."""

    seed: int
    deterministic: bool
    build: BuildContext = field(default_factory=BuildContext)
    """What sources and data functions are built from."""
    remarks: Remarks = field(default_factory=lambda: Remarks(False))
    notes: list[tuple[str, str]] = field(default_factory=list)
    """Diagnostics that the job starts with: code and message."""
    missing_labels: bool = False
    """See `SplitSource.missing_labels`."""

    def below(self, name: str) -> PipelineContext:
        """The same for a branch, whose random numbers are its own."""
        return replace(self, seed=derive_seed(self.seed, "branch", name))
