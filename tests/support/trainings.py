"""Trainings of tiny real models: the runner's own parts, with a list where the agent would be."""

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tensorflow.python.framework.config import disable_op_determinism

from tapeworks.components.loading import load_components, load_installed
from tapeworks.spec.job_spec import JobSpec
from tapeworks.spec.parsing import parse_spec
from tapeworks_workers import runner
from tapeworks_workers.engine.checkpoints.files import opened
from tapeworks_workers.engine.data.pipeline import Data
from tapeworks_workers.engine.devices.devices import Devices
from tapeworks_workers.engine.plans.autotune_cache import Verdicts
from tapeworks_workers.engine.reporting import Reporter
from tapeworks_workers.engine.step.assembly import Assembly, assemble
from tapeworks_workers.engine.training.control import Control
from tapeworks_workers.engine.training.loop import Training
from tapeworks_workers.engine.training.setup import datasets, trace_functions
from tapeworks_workers.processes.frames import Channel
from tests.support.job_files import build_data
from tests.support.paths import LAB

load_installed()
load_components([LAB / "lab_parts.py"])

BATCH = {"op": "batch", "batch_size": 10}
SHUFFLE = {"op": "shuffle", "buffer_size": 1000}
CROSS_ENTROPY = {"component": "keras/SparseCategoricalCrossentropy", "config": {"from_logits": True}}


def numbers(size: int = 100, form: str = "plain", **config: Any) -> dict[str, Any]:
    """The source of lab_parts.py."""
    return {"component": "lab/Numbers", "config": {"size": size, "form": form, **config}}


def mlp(outputs: int = 3, **config: Any) -> dict[str, Any]:
    return {"component": "mlp", "config": {"hidden": [8], "outputs": outputs} | config}


def job(**changes: Any) -> JobSpec:
    """A small job; `data` and `training` are merged."""
    data = {"source": numbers(), "pipeline": [BATCH], **changes.pop("data", {})}
    training = {"epochs": 2, "checkpoint": None, **changes.pop("training", {})}
    parts = {"model": mlp(), "optimizer": "keras/Adam", "loss": CROSS_ENTROPY, **changes}
    given = {name: part for name, part in parts.items() if part is not None or name == "export"}
    return parse_spec({"data": data, "training": training, **given})


@dataclass
class Trained:
    """A training, its parts, and every frame that it sent."""

    training: Training
    assembly: Assembly
    data: Data
    folder: Path
    frames: list[dict[str, Any]] = field(default_factory=list)

    def records(self, kind: str) -> list[dict[str, Any]]:
        return [f["record"] for f in self.frames if f["type"] == "record" and f["record"]["record"] == kind]

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [record["data"] for record in self.records("event") if record["type"] == kind]

    def history(self, name: str) -> list[float]:
        return [event["logs"][name] for event in self.events("epoch")]

    def values(self) -> dict[str, np.ndarray]:
        return {name: variable.numpy() for name, variable in self.assembly.variables().items()}

    def checkpoints(self) -> list[Path]:
        return [self.folder / frame["path"] for frame in self.frames if frame["type"] == "checkpoint"]


def prepared(
    spec: JobSpec,
    folder: Path,
    *,
    resume: Path | None = None,
    control: Control | None = None,
    listen: Callable[[dict[str, Any]], None] = lambda frame: None,
    verdicts: Verdicts | None = None,
    devices: Devices | None = None,
) -> Trained:
    """Everything up to the first step; `listen` sees each frame as it is sent."""
    frames: list[dict[str, Any]] = []

    def send(frame: dict[str, Any]) -> None:
        frames.append(frame)
        listen(frame)

    data = build_data(spec)
    assembly = assemble(spec, data.element_spec, datasets=datasets(data), devices=devices)
    control = control or Control()
    training, _ = trace_functions(
        assembly, data, reporter=Reporter(send), control=control, folder=folder, verdicts=verdicts
    )
    if resume is not None:
        with opened(resume) as (state, content):
            training.resume(state, content)
    return Trained(training, assembly, data, folder, frames)


def trained(spec: JobSpec, folder: Path, **options: Any) -> Trained:
    """The same, trained to the end."""
    result = prepared(spec, folder, **options)
    result.training.train()
    return result


def attempt(spec: JobSpec | dict[str, Any], folder: Path, **lease: Any) -> list[dict[str, Any]]:
    """A whole attempt by `runner.main`; returns every frame it sent. Verifiers are answered for, or by `verify`."""
    document = spec.document() if isinstance(spec, JobSpec) else spec
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    resume, inputs = lease.pop("resume", []), lease.pop("inputs", [])
    verify = lease.pop("verify", lambda message: {"ok": True, "report": {}})
    given = {"data_roots": list(map(str, lease.pop("data_roots", []))), "resume": resume, "inputs": inputs}
    lease = {"kind": "train", "attempt": 1, "spec": document, "timeout_seconds": None, **lease}
    channel.send({"type": "start", "lease": lease, "folder": str(folder), **given})
    thread = threading.Thread(target=runner.main, args=(theirs,))
    thread.start()
    frames = []
    while not frames or frames[-1]["type"] != "finish":
        message = channel.receive()
        assert message is not None, frames[-3:]
        frames.append(message)
        if message["type"] in ("verify", "certify"):
            channel.send({"reply": message["id"], **verify(message)})
    thread.join()
    disable_op_determinism()  # a runner's process ends with its job, this one goes on
    channel.close()
    for reader in (thread for thread in threading.enumerate() if thread.name == "frames"):
        reader.join(30)  # it has heard that the other end is closed
    theirs.close()
    return frames
