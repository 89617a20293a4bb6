"""What calibrations found, kept for jobs whose step is the same: a folder of small files, shared by a worker's runners.

Steps are the same where their operations, the shapes that these take, the batches and the device are. A file is
written aside and renamed; one that cannot be read, or is of other words than these, is as good as none.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapeworks_workers.engine import runtime
from tapeworks_workers.engine.data.pipeline import Split
from tapeworks_workers.engine.step.compiled_step import CompiledStep

FORMAT = 1
_TELLING = ("T", "dtype", "shape", "_output_shapes", "data_format")
"""Attributes that decide how long an operation takes; names and numbers of functions differ from job to job."""


@dataclass(frozen=True)
class AutotuneRecord:
    """What is known of one step on one device."""

    file: Path | None
    """None: nothing is kept."""

    def read(self) -> dict[str, Any]:
        """Each candidate's `steps_per_second` and `first_call_seconds`, and `not_fused`; {} where nothing is known."""
        if self.file is None:
            return {}
        try:
            record = json.loads(self.file.read_text())
            known: dict[str, Any] = record["known"] if record["format"] == FORMAT else {}
            return known if isinstance(known, dict) else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def write(self, known: dict[str, Any]) -> None:
        """Keep it. A folder that cannot be written to loses it: the next job measures again."""
        if self.file is None:
            return
        aside = self.file.with_suffix(f".{os.getpid()}")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(json.dumps({"format": FORMAT, "known": known}))
            aside.rename(self.file)
        except OSError:
            aside.unlink(missing_ok=True)


@dataclass(frozen=True)
class Verdicts:
    """All that is known to a worker."""

    folder: Path | None = None

    def of(self, step: CompiledStep, split: Split) -> AutotuneRecord:
        """What is known of a traced step on this device."""
        if self.folder is None or step.concrete is None:
            return AutotuneRecord(None)
        return AutotuneRecord(self.folder / "plans" / f"{digest(step, split)}.json")


def nodes_of(step: CompiledStep) -> list[Any]:
    """All operations of a traced step with their shapes, those of the functions that it calls too."""
    graph = step.concrete.graph.as_graph_def(add_shapes=True)
    return [*graph.node, *(node for function in graph.library.function for node in function.node_def)]


def digest(step: CompiledStep, split: Split) -> str:
    """The same for steps that take the same time."""
    seen = hashlib.sha256()
    for part in (runtime.fingerprint(), str(step.element_spec), split.batch_size, split.rows is not None):
        seen.update(f"{part}\n".encode())
    for node in nodes_of(step):
        attributes = [
            (name, node.attr[name].SerializeToString(deterministic=True)) for name in _TELLING if name in node.attr
        ]
        seen.update(f"{node.op} {attributes}\n".encode())
    return seen.hexdigest()[:40]
