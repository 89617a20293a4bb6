"""What a spec with several GPUs asks for and several devices cannot do."""

from typing import Any

import pytest

from tapeworks.spec.parsing import parse_spec
from tapeworks_service.specs.several_devices import several_devices_findings

LOSS = "keras/MeanSquaredError"
BY_OUTPUT = {"outputs": {"a": [LOSS, "triplet"], "b": LOSS}}


def found(gpus: int | None = 2, **parts: Any) -> list[str]:
    document = {
        "data": {"source": "iris", "pipeline": [{"op": "batch", "batch_size": 8}]},
        "model": "mlp", "optimizer": "keras/Adam", "loss": LOSS, "training": {"epochs": 1},
        "resources": {"gpus": gpus}, **parts,
    }  # fmt: skip
    return [finding.pointer for finding in several_devices_findings(parse_spec(document))]


@pytest.mark.parametrize(
    ("parts", "pointers"),
    [
        ({}, []),
        ({"loss": "contrastive"}, []),
        ({"loss": "nt_xent"}, ["/losses/model"]),
        ({"loss": BY_OUTPUT}, ["/losses/model/outputs/a/1"]),
        ({"training": {"epochs": 1, "execution": {"plan": "fused"}}}, ["/training/execution/plan"]),
        ({"training": {"epochs": 1, "execution": {"plan": "eager"}}}, ["/training/execution/plan"]),
        ({"training": {"epochs": 1, "execution": {"plan": "steps"}}}, []),
    ],
)
def test_what_several_devices_cannot_do_is_found(parts: dict[str, Any], pointers: list[str]) -> None:
    assert found(**parts) == pointers
    assert found(gpus=1, **parts) == found(gpus=None, **parts) == found(gpus=0, **parts) == []
