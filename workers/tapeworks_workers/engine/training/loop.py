"""The outer loop. Python owns it; the plan owns n inner steps.

Epoch ends, reports and checkpoints fall on call boundaries, because n never reaches past one. At
every boundary: non-finite values and labels out of range end the job, commands are taken, time is
checked, progress is reported. At an epoch's end: validation, the epoch's event, early stopping, callbacks, the best.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure, Location
from tapeworks.schemas.jobs import State
from tapeworks_workers.engine import plans, runtime
from tapeworks_workers.engine.artifacts import Artifacts
from tapeworks_workers.engine.checkpoints.counters import Counters, Pace, Progress, TrainingBounds, until_next
from tapeworks_workers.engine.checkpoints.files import CheckpointFiles
from tapeworks_workers.engine.checkpoints.snapshot import Snapshot
from tapeworks_workers.engine.data.batch_iterator import BatchIterator
from tapeworks_workers.engine.data.checks.resume_warnings import CODE
from tapeworks_workers.engine.data.pipeline import Data
from tapeworks_workers.engine.diagnostics import attribute_state
from tapeworks_workers.engine.diagnostics.retracing import Note
from tapeworks_workers.engine.plans.autotune_cache import Verdicts
from tapeworks_workers.engine.reporting import Reporter
from tapeworks_workers.engine.step.assembly import Assembly
from tapeworks_workers.engine.step.compiled_step import CompiledStep
from tapeworks_workers.engine.step.state import restore, snapshot
from tapeworks_workers.engine.step.step_metrics import StepMetrics
from tapeworks_workers.engine.training.black_box import Recorder
from tapeworks_workers.engine.training.callbacks import Callbacks
from tapeworks_workers.engine.training.checkpoint_writer import CheckpointWriter
from tapeworks_workers.engine.training.control import OUTCOMES, Control, Interrupted
from tapeworks_workers.engine.training.early_stopping import EpochJudge
from tapeworks_workers.engine.training.evaluation import Evaluation, finalize
from tapeworks_workers.engine.training.monitor_direction import Directions
from tapeworks_workers.engine.training.unchanged_variables import UnchangedVariables

MEASURABLE_SECONDS = 0.1
"""Calls that took less together say nothing of what steps wait for."""


class Training:
    """One attempt's training, from wherever its counters stand to the end."""

    def __init__(
        self,
        assembly: Assembly,
        data: Data,
        step: CompiledStep,
        *,
        evaluation: Evaluation,
        reporter: Reporter,
        control: Control,
        files: CheckpointFiles,
        callbacks: Callbacks,
        directions: Directions,
        artifacts: Artifacts,
        plan: str,
        verdicts: Verdicts,
    ) -> None:
        training = assembly.spec.training
        self._assembly, self._data = assembly, data
        self._evaluation, self._reporter, self._control = evaluation, reporter, control
        self._callbacks, self._verdicts = callbacks, verdicts
        self._means = StepMetrics(step)
        self.step = step
        self._plan = self._planned(plan)
        self._recorder = Recorder(assembly, data.training, step, plan=self._plan, artifacts=artifacts)
        self._spec = training
        self._bounds = TrainingBounds.of(training)
        self._pace = Pace(None if training.execution.steps_per_call == "auto" else training.execution.steps_per_call)
        self._feed = BatchIterator(data.training, of_rows=self._plan.gathers)
        self._progress = Progress(self._bounds, reporter)
        self._saves = CheckpointWriter(training.checkpoint, files, reporter)
        self._watched = [*callbacks.without_state(), *evaluation.watched()] if training.deterministic else []
        self._judge = EpochJudge(assembly, reporter, directions)
        self._noted: list[Note] = []
        """What was found in the data and is no failure."""
        self._unchanged: UnchangedVariables | None = None
        """Until the end of the first epoch."""
        self.counters = Counters(steps_per_epoch=training.steps_per_epoch or data.training.steps, plan=self._plan.name)

    def _planned(self, name: str) -> plans.Plan:
        if name != plans.AUTO:
            return plans.make(name, self.step, self._data.training, self._means)
        return plans.calibrated(
            self.step,
            self._data.training,
            self._means,
            left=self._steps_left,
            tell=lambda diagnostics: self._reporter.facts(diagnostics=diagnostics),
            verdicts=self._verdicts,
        )

    def _steps_left(self) -> int | None:
        """Steps of the whole job that are still to be run."""
        total = self._bounds.total(self.counters.steps_per_epoch)
        return None if total is None else total - self.counters.step

    # ── state ────────────────────────────────────────────────────────────────────────────────────

    def resume(self, state: Snapshot, folder: Path) -> None:
        """Go on from a checkpoint. Raises JobFailure `checkpoint_corrupt`; nothing has changed then."""
        restore(self._assembly, state)
        self._means.moved()
        self.counters = Counters(**state.counters)
        self._judge.resume(self.counters, state.values)
        if self.counters.plan != self._plan.kept:  # rounding differs from plan to plan
            self._plan = self._planned(self.counters.plan)
        self._feed = BatchIterator(
            self._data.training,
            number=self.counters.pass_number,
            position=self.counters.position,
            of_rows=self._plan.gathers,
        )
        resumed = {"step": self.counters.step, "data": self._feed.resume(folder)}
        here = runtime.fingerprint()
        other = sorted(name for name in here if self.counters.device.get(name, here[name]) != here[name])
        self._reporter.facts(diagnostics={"resume": {**resumed, "same_device": not other}})
        if other:
            self._reporter.note(
                f"The checkpoint was computed on another device ({', '.join(other)}): the last bits may differ."
            )
        self._assembly.run.stop_reason = self.counters.stop_reason
        if self.counters.callbacks:
            self._callbacks.load(self.counters.callbacks)

    def save(self, *, best: bool = False) -> None:
        """Have a checkpoint of this moment written and announced."""
        self._saves.save(self._state(), self._feed, best=best)

    def save_to(self, files: CheckpointFiles) -> str:
        """Write a checkpoint of this moment and announce it to nobody: its path in the folder of `files`."""
        return files.begin(self._state(), step=self.counters.step, best=False, extra=self._feed.save)()

    def _state(self) -> Snapshot:
        counters = self.counters
        counters.plan = self._plan.kept
        counters.pass_number, counters.position = self._feed.number, self._feed.position
        self._judge.store(counters)
        counters.device = runtime.fingerprint()
        counters.callbacks, counters.stop_reason = self._callbacks.state(), self._assembly.run.stop_reason
        state = snapshot(self._assembly, counters.document())
        state.values.update(self._judge.best_weights)
        return state

    # ── the loop ─────────────────────────────────────────────────────────────────────────────────

    def train(self) -> None:
        """Train to the end, put the weights to be exported in place, and write the last checkpoint."""
        self._saves.begin()
        try:
            self._train()
        finally:
            self._saves.settle(wait=True)

    def _train(self) -> None:
        if self.counters.step == 0:
            self._unchanged = UnchangedVariables(self._assembly)
        while not (self.counters.complete or self._bounds.reached(self.counters) or self._stopped()):
            self._epoch()
        if self._bounds.epochs == 0 and self._data.validation is not None:
            self.counters.logs = self._evaluation.run(self._data.validation, "val_")
            self._reporter.metrics(0, self.counters.logs)
        if not self.counters.complete:
            self._finish()

    def rehearse(self, seconds: float) -> list[tuple[int, float]]:
        """(steps, seconds) of the calls of so long, two at least; the first is one step, with its compilation.

        Whatever a step can show is shown, and the state moves, but nothing is reported, judged or saved.
        """
        calls: list[tuple[int, float]] = []
        self._means.reset()
        unchanged = UnchangedVariables(self._assembly)
        until = time.monotonic() + seconds
        while not self._bounds.reached(self.counters) and (len(calls) < 2 or time.monotonic() < until):
            began = time.monotonic()
            done, wanted = self._call(self._left() if calls and began < until else 1)
            calls.append((done, time.monotonic() - began))
            if done < wanted or self._left() == 0:
                self.counters.epoch += 1
                self.counters.steps_per_epoch = self.counters.steps_per_epoch or self.counters.step_in_epoch
                self.counters.step_in_epoch = 0
                self._means.reset()
                if done < wanted or (self._feed.position and self._spec.steps_per_epoch is None):
                    self._feed.next_pass()
            self._control.check_time()
        unchanged.report(self._reporter, sum(done for done, _ in calls))
        return calls

    def begin_pass(self) -> None:
        """Leave the pass over the data where it is: the next step is on the first batch of another."""
        if self._feed.position:
            self._feed.next_pass()
        self.counters.step_in_epoch = 0
        self._means.reset()

    def run_steps(self, steps: int) -> None:
        """So many steps, whatever the spec's bounds are, over the ends of passes; nothing is reported or judged."""
        while steps > 0:
            in_pass = self._data.training.steps
            done, wanted = self._call(steps if in_pass is None else min(steps, in_pass - self._feed.position))
            steps -= done
            if done < wanted or (in_pass is not None and self._feed.position == in_pass):
                self._feed.next_pass()

    def next_batch(self) -> Any:
        """The batch that the next step would be on; it is lost to training."""
        batch = next(self._feed.iterator, None)
        if batch is None:
            self._feed.next_pass()
            batch = next(self._feed.iterator)
        return batch

    def input_wait(self, calls: Sequence[tuple[int, float]], seconds: float) -> float | None:
        """The part of a step of these rehearsed calls that was waiting for data; None where nothing can be said.

        Calls as long run for so many seconds on one batch that is always there: what they are faster by was the wait.
        """
        steps, took = (sum(column) for column in zip(*calls[1:], strict=True)) if calls[1:] else (0, 0.0)
        if not steps or took < MEASURABLE_SECONDS:
            return None
        each = max(1, int(steps) // len(calls[1:]))
        iterator = iter(self._data.training.dataset(0).take(1).cache().repeat())
        self._plan.run(iterator, 1)
        began, done = time.monotonic(), 0
        while time.monotonic() - began < seconds:
            done += self._plan.run(iterator, each)
        alone = (time.monotonic() - began) / done
        return round(max(0.0, 1.0 - alone * steps / took), 3)

    def _finish(self) -> None:
        if not self._judge.put_back(self.counters):
            finalize(self._assembly)
        self.counters.complete = True
        if self._stopped():
            self._progress.tell(self.counters)
        self.save()

    def _stopped(self) -> bool:
        """Whether early stopping or a callback ended the training, in this attempt or the one that left the state."""
        return self._judge.exhausted or self._assembly.run.stop_reason is not None

    def _epoch(self) -> None:
        """One epoch, or the rest of one."""
        counters = self.counters
        began = time.monotonic()
        self._reporter.enter(State.RUNNING, "training", quietly=self._reporter.phase == "validating")
        if counters.step_in_epoch == 0:
            self._means.reset()
        self._recorder.remember(self.counters, self._feed, always=True)
        self._progress.begin(self._means.examples())
        while (left := self._left()) > 0:
            done, wanted = self._call(left)
            if done < wanted:
                self._feed.next_pass()
                if self._spec.steps_per_epoch is None:
                    break
            if self._left() > 0:
                self._boundary()
        counters.steps_per_epoch = counters.steps_per_epoch or counters.step_in_epoch
        self._end_epoch(time.monotonic() - began)

    def _left(self) -> int:
        """Steps that this epoch still has; a large number where only the data's end tells."""
        counters = self.counters
        per_epoch = self._spec.steps_per_epoch or self._data.training.steps
        left = 2**31 - 1 if per_epoch is None else per_epoch - counters.step_in_epoch
        return left if self._bounds.max_steps is None else min(left, self._bounds.max_steps - counters.step)

    def _call(self, left: int) -> tuple[int, int]:
        """One call of the plan: (steps done, steps asked for)."""
        counters = self.counters
        self._recorder.remember(counters, self._feed)
        bounds = [left, self._pace.next(), until_next(self._spec.report_every_steps, counters.step_in_epoch)]
        if self._spec.checkpoint is not None and self._spec.checkpoint.every_steps is not None:
            bounds.append(until_next(self._spec.checkpoint.every_steps, counters.step))
        wanted = min(bounds)
        try:
            self._means.moved()
            done = self._plan.run(self._feed.iterator, wanted)
        except tf.errors.OpError:
            self._means.check_labels()  # the device may have seen why before the operation failed
            raise
        self._pace.done(done)
        counters.step += done
        counters.step_in_epoch += done
        self._feed.advance(done)
        self._check()
        self._saves.settle(wait=False)
        return done, wanted

    def _boundary(self) -> None:
        """Between two calls inside an epoch."""
        counters = self.counters
        if counters.step_in_epoch % self._spec.report_every_steps == 0:
            logs = self._means.read()
            self._reporter.metrics(counters.step, logs)
            self._callbacks.reported(counters.step, logs)
        if self._progress.due:
            self._tell_progress()
        self._obey()
        if self._saves.due(counters.step):
            self.save()

    def _obey(self) -> None:
        """Take the commands that have come, then look at the clock."""
        while (command := self._control.take()) is not None:
            self._tell_progress()
            self.save()
            if command in OUTCOMES:
                raise Interrupted(OUTCOMES[command])
        self._control.check_time()

    def _end_epoch(self, seconds: float) -> None:
        counters = self.counters
        logs = self._means.read()
        self._progress.measure(self._means.examples())
        counters.epoch += 1
        counters.step_in_epoch = 0
        if self._unchanged is not None:
            self._unchanged.report(self._reporter, counters.step)
            self._unchanged = None
        if self._feed.position and self._spec.steps_per_epoch is None:
            self._feed.next_pass()
        if self._data.validation is not None:
            self._reporter.enter(State.RUNNING, "validating", quietly=True)
            logs |= self._evaluation.run(self._data.validation, "val_")
        counters.logs = logs
        self._reporter.metrics(counters.step, logs)
        self._reporter.event(
            "epoch", {"epoch": counters.epoch, "step": counters.step, "logs": logs, "seconds": round(seconds, 3)}
        )
        self._progress.tell(counters)
        self._judge.judge(counters)
        self._callbacks.epoch_ended(counters.epoch, logs)
        self._warn_of_attributes()
        # Last: what is saved here must hold the verdict, or a resumed attempt would judge this epoch never.
        if self._judge.best(counters):
            self.save(best=True)
        if not (self._stopped() or self._bounds.reached(counters)):
            self._obey()
            if self._saves.due(counters.step):
                self.save()

    def _warn_of_attributes(self) -> None:
        """Once, after the first epoch of an attempt."""
        watched, self._watched = self._watched, []
        for message, hint, component in attribute_state.warnings(watched):
            self._reporter.diagnostic(CODE, message, hint=hint, location=Location(component=component))

    # ── checks ───────────────────────────────────────────────────────────────────────────────────

    def _check(self) -> None:
        for note in self._means.check_labels():
            if note not in self._noted:
                self._noted.append(note)
                self._reporter.diagnostic(note.code, note.message, hint=note.hint, location=note.location)
        counters = self.counters
        finite = self._means.finite_steps()
        if finite < counters.step_in_epoch:
            step = counters.step - counters.step_in_epoch + finite + 1
            what = ", ".join(f"{name} is {value}" for name, value in self._means.not_finite().items())
            self._stop_at(step, what or "a gradient")

    def _stop_at(self, step: int, what: str) -> NoReturn:
        """End the job at a step that was not finite: later steps of the same call are undone."""
        message = self._recorder.record(step, what)
        self.counters.step_in_epoch -= self.counters.step - step
        self.counters.step = step
        self._progress.tell(self.counters)
        raise JobFailure(FailureCode.NON_FINITE, f"not finite at step {step}: {what}. {message}")

    def _tell_progress(self) -> None:
        self._progress.measure(self._means.examples())
        self._progress.tell(self.counters)
