"""The resume test of a validation: is a job that is stopped and resumed the one that never stopped?

    this process:     another pass begins → some steps → checkpoint → some steps more      ┐
    a fresh process:  builds the job anew → restores the checkpoint → the same steps more  ┘ the same bits?

Only a deterministic job promises this, so only such a job is tested. What differs is a diagnostic `inexact_resume`
and part of the validation's result; the job is not refused, since without a pause it trains what it should.

Interface: `tried(…)` in the runner; `main(bundle)` in the fresh process that the agent starts for verifier `resume`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from tapeworks_workers.engine import runtime
from tapeworks_workers.engine.checkpoints.files import CheckpointFiles
from tapeworks_workers.engine.data.checks.resume_warnings import CODE
from tapeworks_workers.engine.data.pipeline import Data, build_data
from tapeworks_workers.engine.devices.selection import configure
from tapeworks_workers.engine.diagnostics.retracing import Traces
from tapeworks_workers.engine.reporting import Reporter
from tapeworks_workers.engine.step.assembly import Assembly
from tapeworks_workers.engine.training.control import Control
from tapeworks_workers.engine.training.evaluation import Evaluation
from tapeworks_workers.engine.training.loop import Training
from tapeworks_workers.engine.training.setup import Attempt, build_training
from tapeworks_workers.processes.frames import Channel
from tapeworks_workers.processes.messages import Reply, ResumeFile, StartFrame, VerifyFrame

FOLDER = "resume_test"
START = "start.json"
STEPS, MORE = 2, 3
_EVALUATED_STEPS = 50
"""Of a validation split that is evaluated in the test too."""


def tried(
    attempt: Attempt,
    assembly: Assembly,
    data: Data,
    *,
    training: Training,
    evaluation: Evaluation,
    channel: Channel,
    reporter: Reporter,
) -> dict[str, Any]:
    """Run the test: the part of the validation's result that it adds. Raises JobFailure where a resume fails."""
    if not attempt.spec.training.deterministic or attempt.spec.training.execution.plan == "eager":
        return {"resume": None}
    folder = attempt.folder / FOLDER
    training.begin_pass()
    training.run_steps(STEPS)
    _evaluated(evaluation, data)
    saved = training.save_to(CheckpointFiles(folder, keep=1))
    start = attempt.start.model_copy(update={"resume": [ResumeFile(path=Path(FOLDER) / saved)]})
    (folder / START).write_text(json.dumps(start.document()))
    here = _observed(assembly, data, training, evaluation)
    reply = Reply.model_validate(channel.request(VerifyFrame(id=0, verifier="resume", bundle=FOLDER).document()))
    if (failure := reply.failure) is not None:
        reporter.diagnostic(
            CODE, f"the job could not be resumed in another process: {failure.code}: {failure.message}",
            hint=failure.hint,
        )  # fmt: skip
        return _result(False, [failure.message], reporter)
    there = reply.report
    differing = sorted(name for name in here if there.get(name) != here[name]) if there else []
    if differing:
        reporter.diagnostic(CODE, _message(differing), hint=_hint(differing))
    return _result(not differing, differing, reporter)


def main(
    bundle: str, components: Sequence[str] = (), refused: Mapping[str, Mapping[str, str]] | None = None
) -> dict[str, Any]:
    """Resume the job of a test and take its steps: what `tried` compares. `components`: to be loaded first, but for
    those that are `refused`."""
    if components:
        from tapeworks_workers.processes.component_zygote import load

        load(components, refused=refused or {}, targets=[])
    attempt = Attempt.of(StartFrame.model_validate_json((Path(bundle) / START).read_text()))
    configure()
    runtime.prepare(attempt.spec)
    reporter = Reporter(lambda frame: None)
    data = build_data(attempt.spec, attempt.files)
    traces = Traces(reporter, limit=attempt.spec.training.max_traces)
    assembly, training, evaluation = build_training(attempt, data, traces, reporter=reporter, control=Control())
    return _observed(assembly, data, training, evaluation)


def _observed(assembly: Assembly, data: Data, training: Training, evaluation: Evaluation) -> dict[str, str]:
    """Digests of all that the steps after the checkpoint make: values, metrics, and the batch that comes next."""
    training.run_steps(MORE)
    found = {name: _digest(variable.numpy()) for name, variable in assembly.variables().items()}
    found["the next batch"] = _digest(training.next_batch())
    found |= {f"val_{name}": repr(value) for name, value in _evaluated(evaluation, data).items()}
    return found


def _evaluated(evaluation: Evaluation, data: Data) -> Mapping[str, float]:
    split = data.validation
    if split is None or split.steps is None or split.steps > _EVALUATED_STEPS:
        return {}
    return evaluation.run(split, "")


def _digest(value: Any) -> str:
    parts = [tf.convert_to_tensor(part) for part in tf.nest.flatten(value, expand_composites=True)]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(part.numpy().tolist()).encode() if part.dtype == tf.string else part.numpy().tobytes())
    return digest.hexdigest()


def _result(exact: bool, differing: list[str], reporter: Reporter) -> dict[str, Any]:
    return {
        "resume": {"exact": exact, "differing": differing[:20], "steps": [STEPS, MORE]},
        "warnings": list(reporter.diagnostics),
    }


def _message(differing: list[str]) -> str:
    return (
        f"a checkpoint after {STEPS} steps of a pass was resumed in another process, and {MORE} steps later "
        f"{len(differing)} values differ from those of the uninterrupted process, {differing[0]!r} among them"
    )


def _hint(differing: list[str]) -> str:
    if "the next batch" in differing:
        return (
            "The data differ: a source or a data function keeps state (a generator of random numbers, an attribute, a "
            "file). Draw from an argument `seed`, or use Keras' and TensorFlow's random functions in a `map`."
        )
    if all(name.startswith("val_") for name in differing):
        return (
            "Only evaluation differs: an evaluator keeps state between epochs. Compute its values from the weights and "
            "the data alone."
        )
    return (
        "Keep the state of a step, layer, loss or metric in tf.Variable or keras.Variable, and draw from `run` or a "
        "seed generator."
    )
