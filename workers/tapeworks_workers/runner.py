"""One attempt at a job, from the lease to the finish.

    prepare → pipeline → assemble → trace → restore → train → last checkpoint → test split
            → export → the agent seals and verifies → finish

A validation takes the same way as far as the trace, runs two seconds of steps, exports and reloads, and tells what it
saw (`inspection`); it keeps no files.
Jobs that look at an upload take none of it: they tell what a dataset holds (`datasets`) or try a package (`admission`).
`main` talks frames to the agent that started it and holds no credential. Whatever goes wrong ends
as a finish frame with a coded failure.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tapeworks.errors import FailureCode, JobFailure, Location
from tapeworks.schemas.jobs import JobKind, State
from tapeworks.schemas.report_limits import MAX_FILE_LIST_BYTES
from tapeworks_workers.engine import runtime
from tapeworks_workers.engine.admission.admission import admit_packaged
from tapeworks_workers.engine.artifacts import Artifacts
from tapeworks_workers.engine.data import class_names
from tapeworks_workers.engine.data.checks import broken_files, resume_warnings
from tapeworks_workers.engine.data.pipeline import Data, build_data
from tapeworks_workers.engine.data.preview.preview import describe
from tapeworks_workers.engine.devices.selection import configure
from tapeworks_workers.engine.diagnostics import classify
from tapeworks_workers.engine.diagnostics.retracing import Traces
from tapeworks_workers.engine.export.export import export_bundle
from tapeworks_workers.engine.reporting import Reporter
from tapeworks_workers.engine.step.assembly import Assembly
from tapeworks_workers.engine.step.compiled_step import step_on_one_device
from tapeworks_workers.engine.training.control import Control, Interrupted
from tapeworks_workers.engine.training.loop import Training
from tapeworks_workers.engine.training.setup import Attempt, build_training
from tapeworks_workers.engine.validation import resume_test
from tapeworks_workers.engine.validation.report import inspect
from tapeworks_workers.processes.frames import BUNDLE, Channel, ChannelClosed, FrameError
from tapeworks_workers.processes.messages import CertifyFrame, FinishFrame, Reply, StartFrame

LOOKS: dict[JobKind, Callable[[StartFrame], dict[str, Any]]] = {
    JobKind.INSPECT: lambda start: describe(*start.uploads),
    JobKind.ADMIT: lambda start: admit_packaged(),
}
PROBE_BATCHES = 2
FILES_SKIPPED, FILES_LEFT_OUT = "files_skipped", "files_left_out"
"""Codes of diagnostics: files that cannot be read, and files of other formats in a dataset."""


def main(sock: socket.socket) -> None:
    """Receive a start frame, run the attempt, send the finish frame."""
    channel = Channel(sock)
    message = channel.receive()
    if message is None:
        return
    try:
        start = StartFrame.model_validate(message)
    except ValidationError as error:  # a service or an agent of another version
        channel.send(failed(classify.failure(error, spec={}, phase=State.STARTING.value)).document())
        return
    control = Control(start.lease.timeout_seconds)
    ended: list[bool] = []
    # Without its agent a runner has nobody to work for: the second lifeline.
    channel.start_reader(control.on_message, lambda: None if ended else os._exit(1))
    reporter = Reporter(channel.send)
    spec = {} if start.lease.spec is None else start.lease.spec.document()
    try:
        look = LOOKS.get(start.lease.kind)
        finish = (
            run(Attempt.of(start), channel, reporter, control) if look is None else finished_look(look(start), reporter)
        )
    except Interrupted as interrupted:
        finish = FinishFrame(outcome=interrupted.outcome)
    except ChannelClosed:
        os._exit(1)
    except Exception as error:
        failure = classify.failure(error, spec=spec, phase=reporter.phase or reporter.state.value)
        finish = failed(failure)
    kept = left_files(start.folder, spec, reporter)
    ended.append(True)
    try:
        channel.send(finish.model_copy(update={"files": kept}).document())
    except FrameError as error:
        channel.send(failed(too_large(error)).model_copy(update={"files": kept}).document())


def failed(failure: dict[str, Any]) -> FinishFrame:
    """The last frame of an attempt that failed."""
    return FinishFrame(outcome="failed", failure=failure)


def too_large(error: FrameError) -> dict[str, Any]:
    """The failure of a job whose result does not fit into a frame."""
    return classify.failure(JobFailure(FailureCode.QUOTA_EXCEEDED, f"the job's result: {error}"), spec={}, phase="")


def finished_look(result: dict[str, Any], reporter: Reporter) -> FinishFrame:
    """What a look at an upload gives: a result, no files."""
    reporter.enter(State.RUNNING)
    return FinishFrame(outcome="succeeded", result=result)


def left_files(folder: Path, spec: Mapping[str, Any], reporter: Reporter) -> list[str]:
    """What callbacks, evaluators and the black box left, whatever the outcome; too much of it is reported."""
    limit = (spec.get("limits") or {}).get("max_artifact_bytes")
    kept, left_out = Artifacts(folder, limit).published()
    if left_out:
        what = ", ".join(left_out[:5]) + (f" and {len(left_out) - 5} more" if len(left_out) > 5 else "")
        reporter.diagnostic(
            FailureCode.STORAGE_FULL,
            f"limits.max_artifact_bytes, {limit}, or their list ({MAX_FILE_LIST_BYTES} bytes) "
            f"leaves no room for {what}: not kept",
            hint="Raise limits.max_artifact_bytes, or write fewer or smaller files.",
        )
    return kept


def run(attempt: Attempt, channel: Channel, reporter: Reporter, control: Control) -> FinishFrame:
    """The recipe. Returns the finish frame; raises JobFailure, Interrupted, and what components raise."""
    spec = attempt.spec
    configure()
    runtime.prepare(spec)
    began = time.monotonic()
    traces = Traces(reporter, limit=spec.training.max_traces)
    reporter.enter(State.RUNNING, "building")
    with traces.watching():
        data = build_data(spec, attempt.files)
    lineage = {**runtime.lineage(spec), "sources": data.sources, "components": attempt.components}
    if data.class_names is not None:
        lineage["class_names"] = class_names.reported(data.class_names)
        reporter.event("class_names", {"class_names": lineage["class_names"]})
    for message in data.absent_classes:
        reporter.note(message)
    reporter.facts(lineage=lineage)
    for code, messages in ((FILES_SKIPPED, data.skipped()), (FILES_LEFT_OUT, attempt.files.left_out_messages())):
        for message in messages:
            reporter.diagnostic(code, message)
    for remark in data.remarks.all():
        reporter.diagnostic(
            resume_warnings.CODE, remark.message, hint=remark.hint, location=Location(component=remark.component)
        )
    for code, message in data.notes:
        reporter.diagnostic(code, message)
    for component, note in data.left_out():
        reporter.diagnostic("left_out", note, location=Location(component=component))
    with broken_files.named(data.all_sources()):
        return trained(attempt, data, traces, channel, reporter, control, lineage=lineage, began=began)


def trained(
    attempt: Attempt,
    data: Data,
    traces: Traces,
    channel: Channel,
    reporter: Reporter,
    control: Control,
    *,
    lineage: Mapping[str, Any],
    began: float,
) -> FinishFrame:
    """What follows once the data is there. `began`: when the attempt did, by the monotonic clock."""
    spec = attempt.spec
    reporter.enter(State.RUNNING, "compiling")
    assembly, training, evaluation = build_training(attempt, data, traces, reporter=reporter, control=control)
    if attempt.kind is JobKind.VALIDATE:
        result = inspect(
            assembly, data, training=training, evaluation=evaluation, reporter=reporter, control=control,
            build_seconds=time.monotonic() - began, traces=traces.counts,
        )  # fmt: skip
        if spec.export is not None:
            prove(attempt, assembly, training, data, channel, reporter)
        result |= resume_test.tried(
            attempt, assembly, data, training=training, evaluation=evaluation, channel=channel, reporter=reporter
        )
        return FinishFrame(outcome="succeeded", result=result, facts={"lineage": lineage})
    if attempt.number > 1 or attempt.resume:  # a retry may begin with the checkpoint of another job
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
    if spec.export is not None:
        reporter.enter(State.EXPORTING)
        draft = export_bundle(
            assembly, step_on_one_device(assembly, training.step),
            counters=counters.document(), batches=data.training.first(PROBE_BATCHES),
            folder=attempt.folder / BUNDLE, metrics=metrics, lineage=lineage, class_names=data.class_names,
        )  # fmt: skip
        for note in draft.notes:
            reporter.note(note)
        reporter.enter(State.VERIFYING)
        verify(channel)
    return FinishFrame(outcome="succeeded", metrics=metrics, facts={"lineage": lineage})


def prove(
    attempt: Attempt, assembly: Assembly, training: Training, data: Data, channel: Channel, reporter: Reporter
) -> None:
    """Export the models of a validation and reload them; nothing is kept. Raises JobFailure as the job's end would."""
    folder = attempt.folder / BUNDLE
    try:
        reporter.enter(State.RUNNING, "exporting")
        draft = export_bundle(
            assembly, step_on_one_device(assembly, training.step),
            counters=training.counters.document(), batches=data.training.first(PROBE_BATCHES),
            folder=folder, metrics={}, lineage={}, class_names=data.class_names,
        )  # fmt: skip
        for note in draft.notes:
            reporter.note(note)
        reporter.enter(State.RUNNING, "verifying")
        verify(channel)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def verify(channel: Channel) -> None:
    """Ask the agent to verify the bundle, in processes of its own. Raises JobFailure with what the first one found."""
    reply = Reply.model_validate(channel.request(CertifyFrame(id=0).document()))
    if reply.failure is not None:
        raise classify.reported_failure(reply.failure)
