"""Jobs of the fault table: small, at a pace of their own, the same bytes in every undisturbed run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

STEPS, INTERVAL, REPORT = 1200, 200, 50
BATCH = {"op": "batch", "batch_size": 32}


def pace(milliseconds: float) -> dict[str, Any]:
    """An operation that makes each batch take so long, without using the CPU."""
    return {"op": "apply", "function": {"component": "faults/paced", "config": {"milliseconds": milliseconds}}}


def job(
    *,
    steps: int = STEPS,
    interval: int = INTERVAL,
    milliseconds: float = 3.0,
    hidden: Sequence[int] = (16,),
    export: dict[str, Any] | None = None,
    **over: Any,
) -> dict[str, Any]:
    """A deterministic job on the digits that takes `steps` · `milliseconds`, with a checkpoint every `interval`."""
    return {
        "data": {
            "source": "digits",
            "pipeline": [{"op": "shuffle", "buffer_size": 500}, {"op": "repeat"}, BATCH, pace(milliseconds)],
        },
        "model": {"component": "mlp", "config": {"hidden": list(hidden), "outputs": 10, "dropout": 0.1}},
        "optimizer": "keras/Adam",
        "loss": {"component": "keras/SparseCategoricalCrossentropy", "config": {"from_logits": True}},
        "training": {
            "max_steps": steps,
            "deterministic": True,
            "report_every_steps": REPORT,
            "checkpoint": {"every_steps": interval, "every_seconds": None, "keep": 3},
        },
        "export": export,
        "limits": {"max_attempts": 3},
        **over,
    }


def short(**over: Any) -> dict[str, Any]:
    """A job that is over at once."""
    return job(**{"steps": 100, "interval": 1000, "milliseconds": 0.1, **over})


def with_source(component: str, **config: Any) -> dict[str, Any]:
    """A job on a source of the tests' own."""
    return short() | {
        "data": {"source": {"component": component, "config": config}, "pipeline": [{"op": "repeat"}, BATCH]}
    }
