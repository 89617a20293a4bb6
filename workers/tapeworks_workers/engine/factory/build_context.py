"""What a component's config may name besides other components: files and earlier jobs."""

from __future__ import annotations

from dataclasses import dataclass, field

from tapeworks_workers.engine.factory.data_files import DataFiles
from tapeworks_workers.engine.factory.earlier_jobs import Inputs


@dataclass(frozen=True)
class BuildContext:
    """What the runner was given for one job. The default is that of no job: no file and no earlier job."""

    files: DataFiles = field(default_factory=DataFiles)
    inputs: Inputs | None = None
    """Given to models only: verifier B has the weights of a role, and of no other part that would hold a model."""
