"""One attempt: the start frame, read; and its training put together, traced, and standing where it is to go on.

    put_together      what the models start from → assemble → compile_parts → resume

The newest checkpoint of this job that can be read comes first, else `training.initial_state`, else nothing: its values
are known before the models are built (vocabularies give shapes), and are put back once tracing has made all variables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tapeworks.errors import FailureCode, JobFailure
from tapeworks.schemas.jobs import JobKind
from tapeworks.spec.job_spec import JobSpec
from tapeworks_workers.engine import plans
from tapeworks_workers.engine.artifacts import Artifacts
from tapeworks_workers.engine.checkpoints.files import CheckpointFiles, opened
from tapeworks_workers.engine.checkpoints.snapshot import Snapshot
from tapeworks_workers.engine.data.pipeline import Data
from tapeworks_workers.engine.devices.selection import devices_of
from tapeworks_workers.engine.diagnostics.retracing import Note, Traces
from tapeworks_workers.engine.export.export import exported_roles
from tapeworks_workers.engine.factory.data_files import DataFiles
from tapeworks_workers.engine.factory.earlier_jobs import Inputs
from tapeworks_workers.engine.models.initial_state import InitialState, continued
from tapeworks_workers.engine.models.stateful_rnn import check_split
from tapeworks_workers.engine.plans.autotune_cache import Verdicts
from tapeworks_workers.engine.reporting import Reporter
from tapeworks_workers.engine.step.assembly import Assembly, assemble
from tapeworks_workers.engine.step.checks.captured_state import captured_variables, operation_notes
from tapeworks_workers.engine.step.checks.replica_equality import check_replicas
from tapeworks_workers.engine.step.checks.second_trace import TraceComparison
from tapeworks_workers.engine.step.checks.training_effect import training_notes, use_notes
from tapeworks_workers.engine.step.compiled_step import CompiledStep, compile_train_step
from tapeworks_workers.engine.step.run import LazyMapping
from tapeworks_workers.engine.step.state import snapshot
from tapeworks_workers.engine.training.callbacks import Callbacks
from tapeworks_workers.engine.training.control import Control
from tapeworks_workers.engine.training.evaluation import Evaluation, averaging_note
from tapeworks_workers.engine.training.evaluators import build_evaluators
from tapeworks_workers.engine.training.loop import Training
from tapeworks_workers.engine.training.monitor_direction import Directions
from tapeworks_workers.processes.messages import StartFrame


@dataclass(frozen=True)
class Attempt:
    """The start frame, read."""

    spec: JobSpec
    kind: JobKind
    number: int
    folder: Path
    resume: tuple[Path, ...]
    """Checkpoints of earlier attempts, newest first."""
    components: list[dict[str, str]]
    files: DataFiles
    inputs: Inputs
    """What earlier jobs left, by the name that the spec gives them."""
    reserve: int
    """Bytes of the folder's disk that checkpoints leave free."""
    verdicts: Verdicts
    start: StartFrame
    """As it came."""

    @classmethod
    def of(cls, start: StartFrame) -> Attempt:
        """Raises JobFailure where this runner cannot take the lease."""
        lease, folder = start.lease, start.folder
        if lease.spec is None:
            raise JobFailure(FailureCode.INVALID_SPEC, f"a job of kind {lease.kind} needs a spec")
        return cls(
            spec=lease.spec,
            kind=lease.kind,
            number=lease.attempt,
            folder=folder,
            resume=tuple(folder / one.path for one in start.resume),
            components=[one.model_dump() for one in lease.components],
            files=DataFiles(start.data_roots, start.uploads, start.external),
            inputs=Inputs.of(start.inputs, folder),
            reserve=start.reserve_bytes,
            verdicts=Verdicts(start.compiled),
            start=start,
        )


def build_training(
    attempt: Attempt, data: Data, traces: Traces, *, reporter: Reporter, control: Control
) -> tuple[Assembly, Training, Evaluation]:
    """Build, trace and restore. What was read to start from is let go at the end."""
    with newest(attempt.resume, reporter) as found:
        start = starting(attempt, data, found)
        with traces.watching():
            assembly = assemble(
                attempt.spec,
                data.element_spec,
                datasets=datasets(data),
                start=start,
                files=attempt.files,
                devices=devices_of(attempt.spec),
            )
        exported_roles(assembly)  # a role that does not exist fails before training
        training, evaluation = trace_functions(
            assembly,
            data,
            reporter=reporter,
            control=control,
            folder=attempt.folder,
            traces=traces,
            reserve=attempt.reserve,
            by_time=attempt.kind is JobKind.TRAIN,
            verdicts=attempt.verdicts,
        )
        resume(attempt, assembly, training, found, start)
    return assembly, training, evaluation


def trace_functions(
    assembly: Assembly,
    data: Data,
    *,
    reporter: Reporter,
    control: Control,
    folder: Path,
    traces: Traces | None = None,
    reserve: int = 0,
    by_time: bool = True,
    verdicts: Verdicts | None = None,
) -> tuple[Training, Evaluation]:
    """Trace every function once, before anything is trained: a mistake in a step costs no epoch.

    `by_time`: where the spec leaves the plan open, candidates are timed while it trains.
    """
    plan = plans.choose(assembly.spec.training, by_time=by_time)
    traces = traces or Traces(reporter, limit=assembly.spec.training.max_traces)
    artifacts = Artifacts(folder, assembly.spec.limits.max_artifact_bytes)
    assembly.run.artifacts = artifacts
    evaluators, callbacks = build_evaluators(assembly), Callbacks(assembly, artifacts, reporter)
    with traces.watching():
        comparison = TraceComparison(assembly, traces)
        step = compile_train_step(assembly, traces=traces, eager=plan == "eager")
        notes = [*comparison.notes(step, always=not by_time), *training_notes(assembly, step)]
        fed, traced = set(assembly.run.fed), step.concrete is not None
        assembly.run.fed.clear()
        evaluation = Evaluation(assembly, plan, control, traces, evaluators=evaluators)
        for split in (data.validation, data.test):
            if split is not None:
                check_split(assembly.models, split)
                evaluation.prepare(split)
        validates = traced and data.validation is not None
        notes += use_notes(assembly, training=True, fed=fed, validates=validates) if traced else ()
        notes += use_notes(assembly, training=False, fed=assembly.run.fed, validates=True) if validates else ()
        notes += find_captured(assembly, [step, *evaluation.steps()])
        if assembly.devices.several:
            check_replicas(assembly, data.training.first(1)[0])
    if data.validation is not None and (averaging := averaging_note(assembly)):
        reporter.note(averaging)
    for taken in assembly.taken:
        reporter.event("initial_state", taken.document())
    for note in [*assembly.notes(), *notes]:
        traces.note(note)
    checkpoint = assembly.spec.training.checkpoint
    files = CheckpointFiles(folder, keep=checkpoint.keep if checkpoint is not None else 1, reserve=reserve)
    directions = Directions(assembly, evaluators, reported(assembly, step, evaluation, data))
    assembly.run.directions = directions
    callbacks.build()
    training = Training(
        assembly, data, step,
        evaluation=evaluation, reporter=reporter, control=control, files=files, callbacks=callbacks,
        directions=directions, artifacts=artifacts, plan=plan, verdicts=verdicts or Verdicts(),
    )  # fmt: skip
    several = {"devices": assembly.devices.names} if assembly.devices.several else {}
    reporter.facts(diagnostics={"traces": traces.counts, "plan": training.counters.plan, **several})
    return training, evaluation


def find_captured(assembly: Assembly, steps: Sequence[CompiledStep]) -> list[Note]:
    """Note the variables that the steps use and nothing declares. In a deterministic job, raises JobFailure for state
    that no checkpoint holds."""
    graphs = [step.concrete.graph for step in steps if step.concrete is not None]
    own = [variable for loss in assembly.losses.values() for variable in loss.label_variables()]
    known = [*assembly.variables().values(), *assembly.means.values(), *own, *assembly.devices.variables()]
    assembly.captured = captured_variables(graphs, known)
    if not assembly.spec.training.deterministic:
        return []
    return operation_notes(graphs)


def reported(assembly: Assembly, step: CompiledStep, evaluation: Evaluation, data: Data) -> list[str] | None:
    """What an epoch's logs will hold besides the values of evaluators; None where only running shows."""
    if step.concrete is None:
        return None
    names = [*step.names, *(metric.name for metric in assembly.all_metrics())]
    if data.validation is not None:
        names += [f"val_{name}" for name in evaluation.names(data.validation)]
    return names


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


def starting(attempt: Attempt, data: Data, found: tuple[Snapshot, Path] | None) -> InitialState:
    """What the models are built from: this job's own checkpoint, else an earlier job, else the data."""
    start = InitialState(data.plain, inputs=attempt.inputs, columns=data.feature_names)
    wanted = attempt.spec.training.initial_state
    if found is not None:
        start.restored = found[0].values
    elif wanted is not None and wanted.restore == "all":
        start.restored = start.state(wanted.from_, pointer="/training/initial_state").values
    return start


def resume(
    attempt: Attempt, assembly: Assembly, training: Training, found: tuple[Snapshot, Path] | None, start: InitialState
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


def datasets(data: Data) -> Mapping[str, Any]:
    """What `run.datasets` offers outside the trace."""
    splits = {"training": data.training, "validation": data.validation}
    return LazyMapping({name: partial(split.dataset, 0) for name, split in splits.items() if split is not None})
