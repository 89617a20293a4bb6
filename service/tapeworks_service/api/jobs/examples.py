"""The example of the request schema: the smallest useful job."""

from __future__ import annotations

from typing import Any

SPEC: dict[str, Any] = {
    "data": {
        "source": "digits",
        "validation": 0.2,
        "pipeline": [{"op": "shuffle", "buffer_size": 1000}, {"op": "batch", "batch_size": 32}],
    },
    "model": {"component": "mlp", "config": {"hidden": [64], "outputs": 10}},
    "optimizer": "keras/Adam",
    "loss": {"component": "focal", "config": {"gamma": 2.0}},
    "metrics": ["keras/SparseCategoricalAccuracy"],
    "training": {"epochs": 5},
}
