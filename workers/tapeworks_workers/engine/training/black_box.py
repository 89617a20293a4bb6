"""The black box: what a job leaves when a loss or a gradient was not finite, for `tapeworks replay`.

`Recorder.remember` keeps the state between two calls of the plan: a graph reads every variable, and the buffers are
shared until training writes to them. When a call of the plan turns out to hold a step that was not finite,
`Recorder.record` puts that state back, trains up to the step again and writes `artifacts/blackbox.tar`:

    black_box.json                        what happened, the spec, each gradient's norm, whether it happened again
    training_state/values.npz, state.json   every value before the step (checkpoint.py's format)
    training_state/inputs.json            the architectures of earlier jobs' models that are part of these
    batch.npz                             the step's batch
    components/                           the sources of the job's components (component_sources.py)
"""

from __future__ import annotations

import math
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tapeworks_workers.engine import plans
from tapeworks_workers.engine.artifacts import BLACK_BOX, Artifacts
from tapeworks_workers.engine.checkpoints.counters import Counters
from tapeworks_workers.engine.checkpoints.snapshot import Snapshot, write_values
from tapeworks_workers.engine.comparison import device, versions
from tapeworks_workers.engine.data.batch_iterator import BatchIterator
from tapeworks_workers.engine.data.pipeline import Split
from tapeworks_workers.engine.export.component_sources import copy_sources, used_components
from tapeworks_workers.engine.export.export import model_configs
from tapeworks_workers.engine.export.packaging import write_json
from tapeworks_workers.engine.export.tensor_json import Arrays, spec_document
from tapeworks_workers.engine.factory.earlier_jobs import ARCHITECTURES
from tapeworks_workers.engine.graph.autograph import peek
from tapeworks_workers.engine.models import layer_state
from tapeworks_workers.engine.step.assembly import Assembly
from tapeworks_workers.engine.step.compiled_step import TRAINING, CompiledStep, compile_train_step
from tapeworks_workers.engine.step.state import restore, snapshot

FORMAT = 1
TRAINING_STATE = "training_state"
MAX_BYTES = 1 << 30
"""Of a state that is kept, in the memory of the device where training runs; a larger job leaves no black box."""
_SHARE = 0.01
"""Of the time, at most, goes into keeping states inside an epoch."""


@dataclass(frozen=True)
class DeviceSnapshot:
    """A state between two calls, and where the data stood."""

    values: dict[str, tf.Tensor]
    """Of variables: what layers keep outside them does not change in training."""
    counters: Counters
    pass_number: int
    position: int

    def snapshot(self, assembly: Assembly) -> Snapshot:
        """The state on the host."""
        values = {name: value.numpy() for name, value in self.values.items()}
        # Without a trace, a job's first step makes the last variables: sums, which begin at zero.
        later = {name: v for name, v in assembly.variables().items() if name not in values}
        made = {name: np.zeros(v.shape, v.dtype.as_numpy_dtype) for name, v in later.items()}
        return Snapshot({**values, **made, **layer_state.of_models(assembly.models)}, self.counters.document())


@dataclass(frozen=True)
class _Recorded:
    """One step, about to be taken."""

    before: Snapshot
    batch: Any
    reproduced: bool
    """Whether the step was not finite when it was taken again, and those before it were."""


class Recorder:
    """Keeps the last state that can be gone back to; writes the black box."""

    def __init__(
        self,
        assembly: Assembly,
        split: Split,
        step: CompiledStep,
        *,
        plan: plans.Plan,
        artifacts: Artifacts,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._assembly, self._split, self._step, self._plan = assembly, split, step, plan
        self._artifacts = artifacts
        self._clock = clock
        self._moment: DeviceSnapshot | None = None
        self._next_at = 0.0
        self._names: list[str] = []
        self._read: Any = None
        self._too_large = False

    def remember(self, counters: Counters, feed: BatchIterator, *, always: bool = False) -> None:
        """Keep the state of now. `always`: an epoch begins, and nothing before it could be gone back to."""
        began = self._clock()
        if not always and began < self._next_at:
            return
        if self._read is None or self._step.concrete is None:  # without a trace, variables are made as steps run
            self._prepare()
        if self._too_large:
            return
        values = dict(zip(self._names, self._read(), strict=True))
        self._moment = DeviceSnapshot(values, replace(counters), feed.number, feed.position)
        ended = self._clock()
        self._next_at = ended + (ended - began) / _SHARE

    def _prepare(self) -> None:
        variables = self._assembly.variables()
        self._too_large = sum(_bytes(variable) for variable in variables.values()) > MAX_BYTES
        if self._read is None or len(variables) != len(self._names):
            self._names, kept = list(variables), list(variables.values())
            read = tf.function(lambda: [variable.read_value() for variable in kept], autograph=False)
            self._read = read.get_concrete_function()

    def record(self, step: int, what: str) -> str:
        """Write the black box of a step; the state before it is in place then. Returns a sentence for the failure."""
        if self._moment is None:
            return f"No black box was written: the job's values have more than {MAX_BYTES >> 20} MiB."
        try:
            recorded = self._again(self._moment, step)
            self._write(self._moment, recorded, step, what)
        except Exception as error:  # the job ends as `non_finite` whatever the step does when it is taken again
            return f"The black box could not be written: {type(error).__name__}: {error}"
        again = "" if recorded.reproduced else " Replayed, the step was finite."
        return f"Its batch and the state before it are in {BLACK_BOX}, for `tapeworks replay`.{again}"

    def _again(self, moment: DeviceSnapshot, step: int) -> _Recorded:
        """Train from a moment up to a step, and take the step."""
        restore(self._assembly, moment.snapshot(self._assembly))
        feed = BatchIterator(
            self._split, number=moment.pass_number, position=moment.position, of_rows=self._plan.gathers
        )
        left = step - 1 - moment.counters.step
        while left > 0:
            done = self._plan.run(feed.iterator, left)
            feed.advance(done)
            left -= done
            if left:
                feed.next_pass()
        batch = next(feed.iterator, None)
        if batch is None:
            feed.next_pass()
            batch = next(feed.iterator)
        before = snapshot(self._assembly, {**moment.counters.document(), "step": step - 1})
        expected = moment.counters.step_in_epoch + step - 1 - moment.counters.step
        finite_before = self._finite_steps() == expected
        self._step(batch)
        reproduced = finite_before and self._finite_steps() == expected
        restore(self._assembly, before)
        return _Recorded(before, batch, reproduced)

    def _finite_steps(self) -> int:
        return int(peek(self._assembly.means[TRAINING])[-1])

    def _write(self, moment: DeviceSnapshot, recorded: _Recorded, step: int, what: str) -> None:
        spec = self._assembly.spec
        arrays = Arrays()
        norms, why = gradient_norms(self._assembly, recorded.batch)
        restore(self._assembly, recorded.before)
        self._artifacts.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".black-box-", dir=self._artifacts.attempt) as aside:
            folder = Path(aside) / "content"
            write_values(recorded.before, folder / TRAINING_STATE)
            write_json(folder / TRAINING_STATE / ARCHITECTURES, self._assembly.architectures)
            batch = arrays.add(recorded.batch)
            arrays.write(folder / "batch.npz")
            used = used_components(spec.document(), model_configs(self._assembly))
            document = {
                "format": FORMAT,
                "step": step,
                "epoch": moment.counters.epoch + 1,
                "what": what,
                "reproduced": recorded.reproduced,
                "gradient_norms": norms,
                "without_norms": why,
                "spec": spec.document(),
                "element_spec": spec_document(self._assembly.element_spec),
                "batch": batch,
                "versions": versions(),
                "device": device(),
                "components": copy_sources(used, folder / "components"),
            }
            write_json(folder / "black_box.json", document)
            packed = Path(aside) / BLACK_BOX
            with tarfile.open(packed, "w") as archive:
                for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                    archive.add(file, arcname=file.relative_to(folder).as_posix(), recursive=False)
            packed.rename(self._artifacts.folder / BLACK_BOX)


def gradient_norms(assembly: Assembly, batch: Any) -> tuple[dict[str, float | str], str | None]:
    """Take the step without a graph: (each gradient's norm by optimizer and variable, why there is none).

    Norms are of the gradients as they reach `apply`, before transforms; one that is not finite is a string.
    """
    run = assembly.run
    run.gradient_norms = {}
    try:
        with assembly.devices.alone():
            compile_train_step(assembly, eager=True)(batch)
        why = None if run.gradient_norms else "the step applied no gradient"
    except Exception as error:  # a step that needs its graph: the box is worth having without norms
        why = f"the step does not run without a graph: {type(error).__name__}: {error}"
    norms = {name: norm if math.isfinite(norm) else str(norm) for name, norm in run.gradient_norms.items()}
    run.gradient_norms = None
    return norms, why


def _bytes(variable: tf.Variable) -> int:
    return int(variable.shape.num_elements() or 0) * int(variable.dtype.size)
