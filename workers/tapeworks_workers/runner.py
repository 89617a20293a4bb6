"""One attempt at a job, from the lease to the finish.

    prepare → pipeline → assemble → trace → restore → train → last checkpoint → test split
            → export → verify in fresh processes → seal → finish

A validation takes the same way as far as the trace, runs two seconds of steps and tells what it saw (`inspection`).
`main` talks frames to the agent that started it and holds no credential. Whatever goes wrong ends
as a finish frame with a coded failure.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tapeworks.errors import FailureCode, JobFailure
from tapeworks.jobs import JobKind, State
from tapeworks.spec import JobSpec
from tapeworks_workers.engine import diagnostics, environment, plans
from tapeworks_workers.engine.artifacts import Artifacts
from tapeworks_workers.engine.assembly import Assembly, assemble
from tapeworks_workers.engine.building import set_data_roots
from tapeworks_workers.engine.bundle import seal
from tapeworks_workers.engine.callbacks import Callbacks
from tapeworks_workers.engine.checkpoint import Snapshot, snapshot
from tapeworks_workers.engine.checkpoint_files import CheckpointFiles, opened
from tapeworks_workers.engine.control import Control, Interrupted
from tapeworks_workers.engine.epochs import Training
from tapeworks_workers.engine.evaluation import Evaluation
from tapeworks_workers.engine.evaluators import build_evaluators, selected
from tapeworks_workers.engine.export import export_bundle, exported_roles
from tapeworks_workers.engine.inputs import Inputs
from tapeworks_workers.engine.inspection import inspect
from tapeworks_workers.engine.pipeline import Data, build_data
from tapeworks_workers.engine.reporting import Reporter
from tapeworks_workers.engine.starting import Start, continued
from tapeworks_workers.engine.step import compile_train_step
from tapeworks_workers.engine.traces import Traces
from tapeworks_workers.frames import Channel, ChannelClosed

BUNDLE = "bundle"
PROBE_BATCHES = 2
NOTHING: dict[str, Any] = {"bundle": None, "parts": {}, "formats": [], "verified": {}, "result": None}
"""What a finish frame publishes, empty."""


@dataclass(frozen=True)
class Attempt:
    """The start frame, read."""

    spec: JobSpec
    kind: JobKind
    number: int
    folder: Path
    resume: tuple[Path, ...]
    """Checkpoints of earlier attempts, newest first."""
    components: list[dict[str, Any]]
    inputs: Inputs
    """What earlier jobs left, by the name that the spec gives them."""

    @classmethod
    def of(cls, frame: Mapping[str, Any]) -> Attempt:
        """Raises JobFailure where this runner cannot take the lease."""
        lease = frame["lease"]
        if lease["kind"] not in (JobKind.TRAIN, JobKind.VALIDATE):
            raise JobFailure(FailureCode.NOT_SUPPORTED, f"jobs of kind {lease['kind']!r} are not supported yet")
        set_data_roots([Path(root) for root in frame.get("data_roots", [])])
        folder = Path(frame["folder"])
        resume = tuple(folder / item["path"] for item in frame.get("resume", []))
        spec = JobSpec.model_validate(lease["spec"])
        inputs = Inputs.of(frame.get("inputs", []), folder)
        components = list(lease.get("components", []))
        return cls(spec, JobKind(lease["kind"]), lease["attempt"], folder, resume, components, inputs)


def main(sock: socket.socket) -> None:
    """Receive a start frame, run the attempt, send the finish frame."""
    channel = Channel(sock)
    start = channel.receive()
    if start is None:
        return
    control = Control(start["lease"].get("timeout_seconds"))
    ended: list[bool] = []
    # Without its agent a runner has nobody to work for: the second lifeline.
    channel.start_reader(control.on_message, lambda: None if ended else os._exit(1))
    reporter = Reporter(channel.send)
    spec = start["lease"]["spec"]
    try:
        finish = run(Attempt.of(start), channel, reporter, control)
    except Interrupted as interrupted:
        finish = {"outcome": interrupted.outcome}
    except ChannelClosed:
        os._exit(1)
    except Exception as error:
        failure = diagnostics.failure(error, spec=spec, phase=reporter.phase or reporter.state.value)
        finish = {"outcome": "failed", "failure": failure}
    files = left_files(Path(start["folder"]), spec, reporter)
    ended.append(True)
    channel.send({"type": "finish", "failure": None, "published": None, "files": files, **finish})


def left_files(folder: Path, spec: Mapping[str, Any], reporter: Reporter) -> list[str]:
    """What callbacks, evaluators and the black box left, whatever the outcome; too much of it is told."""
    limit = (spec.get("limits") or {}).get("max_artifact_bytes")
    kept, left_out = Artifacts(folder, limit).published()
    if left_out:
        what = ", ".join(left_out[:5]) + (f" and {len(left_out) - 5} more" if len(left_out) > 5 else "")
        reporter.diagnostic(
            FailureCode.STORAGE_FULL,
            f"limits.max_artifact_bytes, {limit}, leaves no room for {what}: not kept",
            hint="Raise limits.max_artifact_bytes, or write fewer or smaller files.",
        )
    return kept


def run(attempt: Attempt, channel: Channel, reporter: Reporter, control: Control) -> dict[str, Any]:
    """The recipe. Returns the finish frame's fields; raises JobFailure, Interrupted, and what components raise."""
    spec = attempt.spec
    environment.prepare(spec)
    began = time.monotonic()
    traces = Traces(reporter, limit=spec.training.max_traces)
    reporter.enter(State.RUNNING, "building")
    with traces.watching():
        data = build_data(spec)
    lineage = {**environment.lineage(spec), "sources": data.sources, "components": attempt.components}
    reporter.facts(lineage=lineage)

    reporter.enter(State.RUNNING, "compiling")
    assembly, training, evaluation = put_together(attempt, data, traces, reporter=reporter, control=control)
    if attempt.kind is JobKind.VALIDATE:
        result = inspect(
            assembly, data, training=training, evaluation=evaluation, reporter=reporter, control=control,
            build_seconds=time.monotonic() - began, traces=traces.counts,
        )  # fmt: skip
        return {"outcome": "succeeded", "published": {**NOTHING, "result": result}, "facts": {"lineage": lineage}}
    if attempt.number > 1:
        reporter.event("rewound", {"step": training.counters.step})

    with traces.watching() if training.counters.plan == "eager" else contextlib.nullcontext():
        training.train()
    counters = training.counters
    metrics = dict(counters.logs)
    if data.test is not None:
        reporter.enter(State.RUNNING, "testing")
        tested = evaluation.run(data.test, "test_")
        reporter.metrics(counters.step, tested)
        metrics |= tested
    published = None
    if spec.export is not None:
        reporter.enter(State.EXPORTING)
        export_bundle(
            assembly, counters=counters.document(), batches=probes(data), folder=attempt.folder / BUNDLE,
            metrics=metrics, lineage=lineage,
        )  # fmt: skip
        reporter.enter(State.VERIFYING)
        reports = {verifier: verify(channel, verifier) for verifier in ("reload", "certify")}
        sealed = seal(attempt.folder / BUNDLE, reports, max_artifact_bytes=spec.limits.max_artifact_bytes)
        published = {
            **NOTHING,
            "bundle": relative(sealed.bundle, attempt.folder),
            "parts": {name: relative(part, attempt.folder) for name, part in sealed.parts.items()},
            "formats": sealed.formats,
            "verified": sealed.verified,
        }
    return {"outcome": "succeeded", "published": published, "metrics": metrics, "facts": {"lineage": lineage}}


def put_together(
    attempt: Attempt, data: Data, traces: Traces, *, reporter: Reporter, control: Control
) -> tuple[Assembly, Training, Evaluation]:
    """Build, trace and restore. What was read to start from is let go at the end."""
    with newest(attempt.resume, reporter) as found:
        start = starting(attempt, data, found)
        with traces.watching():
            assembly = assemble(attempt.spec, data.element_spec, datasets=datasets(data), start=start)
        exported_roles(assembly)  # a role that does not exist is told before it is trained for
        training, evaluation = compile_parts(
            assembly, data, reporter=reporter, control=control, folder=attempt.folder, traces=traces
        )
        resume(attempt, assembly, training, found, start)
    return assembly, training, evaluation


def compile_parts(
    assembly: Assembly,
    data: Data,
    *,
    reporter: Reporter,
    control: Control,
    folder: Path,
    traces: Traces | None = None,
) -> tuple[Training, Evaluation]:
    """Trace every function once, before anything is trained: a mistake in a step costs no epoch."""
    plan = plans.choose(assembly.spec)
    traces = traces or Traces(reporter, limit=assembly.spec.training.max_traces)
    artifacts = Artifacts(folder, assembly.spec.limits.max_artifact_bytes)
    run = assembly.run
    run.artifacts = artifacts
    run.datasets.update({name: selected(dataset, assembly) for name, dataset in run.datasets.items()})
    evaluators, callbacks = build_evaluators(assembly), Callbacks(assembly, artifacts, reporter)
    with traces.watching():
        step = compile_train_step(assembly, traces=traces, eager=plan == "eager")
        evaluation = Evaluation(assembly, plan, control, traces, evaluators=evaluators)
        for split in (data.validation, data.test):
            if split is not None:
                evaluation.prepare(split)
    for remark in assembly.remarks:
        reporter.note(remark)
    for note in assembly.notes():
        traces.note(note)
    reporter.facts(diagnostics={"traces": traces.counts, "plan": plan})
    checkpoint = assembly.spec.training.checkpoint
    files = CheckpointFiles(folder, keep=checkpoint.keep if checkpoint is not None else 1)
    training = Training(
        assembly, data, step,
        evaluation=evaluation, reporter=reporter, control=control, files=files, callbacks=callbacks,
        artifacts=artifacts, plan=plan,
    )  # fmt: skip
    return training, evaluation


@contextmanager
def newest(checkpoints: Sequence[Path], reporter: Reporter) -> Iterator[tuple[Snapshot, Path] | None]:
    """The newest checkpoint that can be read, and its folder; None where there is none."""
    with ExitStack() as stack:
        found = None
        for path in checkpoints:
            try:
                found = stack.enter_context(opened(path))
                break
            except JobFailure as failure:
                reporter.diagnostic(failure.code, failure.message, hint=failure.hint)
        yield found


def starting(attempt: Attempt, data: Data, found: tuple[Snapshot, Path] | None) -> Start:
    """What the models are built from: this job's own checkpoint, else an earlier job, else the data."""
    start = Start(data.plain, inputs=attempt.inputs)
    wanted = attempt.spec.training.initial_state
    if found is not None:
        start.restored = found[0].values
    elif wanted is not None and wanted.restore == "all":
        start.restored = start.state(wanted.from_, pointer="/training/initial_state").values
    return start


def resume(
    attempt: Attempt, assembly: Assembly, training: Training, found: tuple[Snapshot, Path] | None, start: Start
) -> None:
    """Put training where this job's checkpoint left it, or, with `restore: all`, where the earlier job did."""
    wanted = attempt.spec.training.initial_state
    if found is not None:
        training.resume(*found)
    elif wanted is not None and wanted.restore == "all":
        state = start.state(wanted.from_, pointer="/training/initial_state")
        # An empty folder: the position in another job's data is not taken over.
        with TemporaryDirectory() as folder:
            current = snapshot(assembly, training.counters.document())
            training.resume(continued(state, current, attempt.spec.training, name=wanted.from_), Path(folder))


def datasets(data: Data) -> dict[str, Any]:
    """What `run.datasets` offers outside the trace."""
    splits = {"training": data.training, "validation": data.validation}
    return {name: split.dataset(0) for name, split in splits.items() if split is not None}


def probes(data: Data) -> Sequence[Any]:
    """The first training batches. As tensors: as arrays, ragged ones would be nested and sparse ones made dense."""
    return list(data.training.dataset(0).take(PROBE_BATCHES))


def verify(channel: Channel, verifier: str) -> dict[str, Any]:
    """Ask the agent for a verification in a fresh process. Raises JobFailure with what it found."""
    reply = channel.request({"type": "verify", "verifier": verifier, "bundle": BUNDLE})
    if not reply["ok"]:
        raise diagnostics.revived(reply["failure"])
    report: dict[str, Any] = reply["report"]
    return report


def relative(path: Path, folder: Path) -> str:
    """A path as the agent knows it."""
    return path.relative_to(folder).as_posix()
