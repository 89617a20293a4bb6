"""A process whose CPU is two logical devices, which must be so before TensorFlow starts; it trains what it is asked to.

compare(document)   the job on one device and on two: largest differences of weights, of epochs' logs and metrics
resumed(document)   a job on two devices, and the same resumed from its checkpoints on two devices and on one
refused(document)   the failure that two devices end in, code None where they end in none
traced(document)    the same of an example, up to its first step
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class TwoDevices:
    """The process. `ask` raises AssertionError with what was raised there."""

    def __init__(self) -> None:
        environment = {**os.environ, "TAPEWORKS_LOGICAL_DEVICES": "2", "KERAS_BACKEND": "tensorflow"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.two_devices"], cwd=ROOT, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def ask(self, function: str, document: dict[str, Any], **options: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([function, document, options]) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "raised" not in answer, answer["raised"]
        return answer["result"]

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(60)


def main() -> None:
    """One request a line, one answer a line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what TensorFlow and steps print is no answer
    from tapeworks_workers.engine.devices.selection import configure

    configure()
    from tapeworks.components.loading import load_components
    from tests.support.paths import LAB

    load_components([LAB / "device_parts.py"])
    functions = {"compare": compare, "resumed": resumed, "refused": refused, "traced": traced}
    for line in sys.stdin:
        name, document, options = json.loads(line)
        try:
            answer = {"result": functions[name](document, **options)}
        except Exception as error:
            answer = {"raised": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _trained(document: dict[str, Any], devices: int, resume: Path | None = None, folder: Path | None = None) -> Any:
    from tapeworks.spec.parsing import parse_spec
    from tapeworks_workers.engine.devices.selection import devices_of
    from tests.support.trainings import prepared

    spec = parse_spec({**document, "resources": {"gpus": devices}})
    place = folder or Path(tempfile.mkdtemp())
    result = prepared(spec, place, devices=devices_of(spec), resume=resume)
    result.training.train()
    return result


def _apart(one: dict[str, Any], other: dict[str, Any]) -> tuple[float, str]:
    import numpy as np

    assert one.keys() == other.keys()
    found = (0.0, "")
    for name, value in one.items():
        if name.startswith(("models/", "optimizers/")) and value.size:
            apart = float(np.abs(value.astype(np.float64) - other[name].astype(np.float64)).max())
            found = max(found, (apart, name))
    return found


def compare(document: dict[str, Any]) -> dict[str, Any]:
    one, two = _trained(document, 1), _trained(document, 2)
    logs, other = ([event["logs"] for event in job.events("epoch")] for job in (one, two))
    assert [set(epoch) for epoch in logs] == [set(epoch) for epoch in other]
    named = {metric.name for metric in one.assembly.all_metrics() if metric.component is not None}
    apart = {
        name: max(abs(a[name] - b[name]) for a, b in zip(logs, other, strict=True) if name in a) for name in logs[-1]
    }
    examples = [job.assembly.means["training"].numpy()[-2] for job in (one, two)]
    assert examples[0] == examples[1]
    return {
        "steps": [job.training.counters.step for job in (one, two)],
        "plan": two.training.counters.plan,
        "weights": _apart(one.values(), two.values()),
        "logs": max(value for name, value in apart.items() if name.removeprefix("val_") not in named),
        "metrics": {name: value for name, value in apart.items() if name.removeprefix("val_") in named},
        "last": logs[-1],
    }


def resumed(document: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    whole = _trained(document, 2)
    checkpoint = whole.checkpoints()[0]
    again, alone = (_trained(document, devices, resume=checkpoint) for devices in (2, 1))
    values, others = whole.values(), again.values()
    return {
        "from": json.loads((checkpoint / "state.json").read_text()).get("step")
        if (checkpoint / "state.json").exists()
        else None,
        "same": all(np.array_equal(values[name], others[name], equal_nan=True) for name in values),
        "alone": _apart(values, alone.values()),
    }


def refused(document: dict[str, Any]) -> dict[str, Any]:
    from tapeworks.errors import JobFailure

    try:
        _trained(document, 2)
    except JobFailure as failure:
        return {"code": failure.code.value, "message": failure.message, "hint": failure.hint}
    return {"code": None}


_examples: list[Path] = []
"""Filled once the components of the examples are loaded."""


def traced(document: dict[str, Any]) -> dict[str, Any]:
    from examples.serving import DATA, component_folders
    from tapeworks.components.loading import load_components
    from tapeworks.errors import JobFailure
    from tapeworks.spec.parsing import parse_spec
    from tapeworks_workers.engine.devices.selection import devices_of
    from tests.support.job_files import set_data_roots
    from tests.support.trainings import prepared

    if not _examples:
        for folder in component_folders():
            load_components([folder])
        set_data_roots([DATA])
        _examples.append(DATA)
    spec = parse_spec({**document, "resources": {"gpus": 2}})
    with tempfile.TemporaryDirectory() as folder:
        try:
            prepared(spec, Path(folder), devices=devices_of(spec))
        except JobFailure as failure:
            return {"code": failure.code.value, "message": failure.message}
    return {"code": None, "message": ""}


if __name__ == "__main__":
    main()
