"""What a deterministic job is warned of when it starts: state of its data that no checkpoint holds.

`Remarks` collects it while the data is built; the runner reports each as a diagnostic `inexact_resume`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tapeworks_workers.engine.graph.dataset_state import Found

CODE = "inexact_resume"

_MAP = "Call it in a `map` operation of data.pipeline: random numbers then follow from each element's position."
_HINTS = {
    "shuffle": 'Shuffle with {"op": "shuffle", "buffer_size": 1000} in data.pipeline, give the function an argument '
    "`seed`, or pass reshuffle_each_iteration=False.",
    "random": _MAP + " Draw outside of loops and tf.function there, or take an argument `seed` and use "
    "tf.random.stateless_uniform and its like.",
    "variable": _MAP + " Other values must be computed from the element, or from an argument `seed`.",
    "table": "Fill tables in __init__, and only look them up in the data function.",
    "python": "Write it with TensorFlow's operations. Where it keeps no state and draws no random numbers, a resumed "
    "job is exact and nothing needs to be done.",
    "file": "Use cache() without a file name.",
    "other": "Compute elements from the data alone, or from an argument `seed`.",
}


@dataclass(frozen=True)
class Remark:
    """One warning."""

    message: str
    hint: str
    component: str


@dataclass
class Remarks:
    """The warnings of a job, each kind once for each component."""

    wanted: bool
    """Whether the job promises to resume exactly."""
    _found: dict[tuple[str, str], Remark] = field(default_factory=dict)

    def add(self, found: Iterable[Found], *, place: str, component: str) -> None:
        """Note what a component's datasets keep. `place`: where the spec names it."""
        if not self.wanted:
            return
        for one in found:
            if one.kind == "python":
                message = (
                    f"{place}: {component!r} runs Python code for each element ({one.what}). If it keeps state between "
                    "elements or passes, no checkpoint holds it, and a job that is resumed sees other elements."
                )
            else:
                message = (
                    f"{place}: {component!r} keeps state between elements or passes ({one.what}) that no checkpoint "
                    "holds: a job that is paused or loses its worker then ends with other weights and metrics."
                )
            self._found.setdefault((component, one.kind), Remark(message, _HINTS[one.kind], component))

    def all(self) -> list[Remark]:
        """In the order in which they were found."""
        return list(self._found.values())
