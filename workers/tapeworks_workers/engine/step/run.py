"""`run`: the only door from a step to the engine. Its interface is `tapeworks.components.interfaces.Run`.

Everything here may be called while the step is traced. State lives in tf.Variables that
`variables()` names for checkpoints: the step counter, the random streams, what the minimizers keep
(gradients.py), and `health`, which turns NaN with the first gradient that is not finite and stays so;
in mixed_float16 with a loss that is not, or a loss scale that has become useless.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tapeworks.components.interfaces import TrainingStep
from tapeworks.errors import FAILURES, FailureCode, JobFailure
from tapeworks_workers.engine.artifacts import Artifacts
from tapeworks_workers.engine.devices.replica import Replica, current
from tapeworks_workers.engine.diagnostics import source_locations as places
from tapeworks_workers.engine.diagnostics.retracing import Note
from tapeworks_workers.engine.graph.autograph import engine_code
from tapeworks_workers.engine.graph.randomness import Streams, normal, uniform
from tapeworks_workers.engine.step import fit_hooks
from tapeworks_workers.engine.step import metrics as metric_updates
from tapeworks_workers.engine.step.gradients import OptimizerGroup
from tapeworks_workers.engine.step.metrics import RoleMetric


class Run:
    """One attempt's engine, as its components see it."""

    def __init__(
        self,
        *,
        models: Mapping[str, keras.Model],
        losses: Mapping[str, Any],
        optimizers: Mapping[str, keras.optimizers.Optimizer],
        minimizers: Mapping[str, OptimizerGroup],
        metrics: Mapping[str, Sequence[RoleMetric]],
        seed: int,
    ) -> None:
        self.models = models
        self.losses: Mapping[str, Any] = UsedParts(losses)
        self.datasets: Mapping[str, Any] = {}
        self.streams = Streams(seed)
        self.training_step: TrainingStep
        self.artifacts: Artifacts | None = None
        """None where no attempt is around: in a verifier."""
        self.directions: Any = None
        """Resolves the direction of monitored values; an attempt's `Directions`."""
        self.stop_reason: str | None = None
        self.gradient_norms: dict[str, float] | None = None
        """A dict: steps that run without a graph note here each gradient's norm."""
        self.gradients_seen: dict[str, list[list[Any]]] | None = None
        """A dict: optimizer → the gradients of each call that is traced."""
        self.notes: list[Note] = []
        """What was found while tracing and is no failure."""
        self.latest_values: list[Any] = []
        """Scalars of this trace, or of this step without a graph, that are reported as they were last."""
        self.hooks_called: set[tuple[str, str]] = set()
        """(role, hook) of the models' own hooks that the step asked for."""
        self.declared = frozenset(minimizers)
        """The optimizers that the step declares."""
        self.applied: set[str] = set()
        """Those of them that a step applied."""
        self.differentiated: set[str] = set()
        """Those whose gradients a step took from `gradients`."""
        self.fed: set[str] = set()
        """Roles whose metrics a step fed."""
        self.watched: dict[int, Any] = {}
        """Trainable variables that a tape watched."""
        self.unreached: set[int] = set()
        """Ids of owned variables that a loss misses."""
        self.optimizers = tuple(optimizers)
        self._optimizers = optimizers
        self._minimizers = minimizers
        self._metrics = metrics
        self._counter = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        self._health = tf.Variable(0.0, dtype=tf.float32, trainable=False, name="health")

    @property
    def used_losses(self) -> set[str]:
        """The losses of the spec that a step asked for."""
        return self.losses.used if isinstance(self.losses, UsedParts) else set(self.losses)

    @property
    def step(self) -> tf.Tensor:
        """Steps done so far: an int64 scalar."""
        return self._counter.read_value()

    @property
    def counter(self) -> tf.Variable:
        """The variable behind `step`; only the engine moves it."""
        return self._counter

    @property
    def health(self) -> tf.Variable:
        """0 as long as all was finite that should be, NaN from then on."""
        return self._health

    def variables(self) -> dict[str, tf.Variable]:
        """What a checkpoint must hold of the run itself."""
        streams = {f"streams/{name}": state for name, state in self.streams.variables().items()}
        kept = {name: state for one in self._minimizers.values() for name, state in one.state().items()}
        return {"step": self._counter, "health": self._health, **streams, **kept}

    # ── training ─────────────────────────────────────────────────────────────────────────────────

    @engine_code
    def gradients(self, optimizer: str, loss: Any, tape: tf.GradientTape) -> list[Any]:
        """Unscaled gradients of the variables that `optimizer` owns, in the models' order; None where the loss misses.

        Raises JobFailure `no_gradient` where the loss reaches none of them.
        """
        minimizer = self._of(optimizer)
        gradients = minimizer.gradients(loss, tape, self._health)
        if (replica := current()) is not None and replica.index > 0:
            return gradients
        if self.gradients_seen is not None:
            self.gradients_seen.setdefault(optimizer, []).append(gradients)
        self.differentiated.add(optimizer)
        self.watched.update((id(variable), variable) for variable in tape.watched_variables())
        self.unreached.update(id(v) for v, g in zip(minimizer.variables, gradients, strict=True) if g is None)
        missing = [v.path for v, g in zip(minimizer.variables, gradients, strict=True) if g is None]
        if gradients and len(missing) == len(gradients):
            raise JobFailure(
                FailureCode.NO_GRADIENT,
                f"the loss given to optimizer {optimizer!r} reaches none of its variables: {_names(missing)}",
                hint="Compute the loss inside the tape from the models' outputs, with differentiable operations only.",
            )
        if missing:
            message = f"optimizer {optimizer!r}: no gradient for {_names(missing)}"
            hint = FAILURES[FailureCode.NO_GRADIENT].hint
            self.notes.append(Note(FailureCode.NO_GRADIENT, message, hint, places.here()))
        return gradients

    @engine_code
    def apply(self, optimizer: str, gradients: Sequence[Any], when: Any = None) -> tf.Tensor:
        """Accumulate, transform and apply. `when` (bool scalar) False: nothing happens, nothing is counted.

        Returns whether variables changed: a bool scalar.
        """
        minimizer = self._of(optimizer)
        if len(gradients) != len(minimizer.variables):
            raise JobFailure(
                FailureCode.COMPONENT_ERROR,
                f"optimizer {optimizer!r} owns {len(minimizer.variables)} variables, the step gives {len(gradients)} "
                "gradients",
                hint="Give the list that run.gradients(optimizer, loss, tape) returned, one for each variable.",
            )

        self.applied.add(optimizer)
        if self.gradient_norms is not None:
            self.gradient_norms.update(_norms(optimizer, gradients, minimizer.variables))

        def applied() -> tf.Tensor:
            return minimizer.apply(gradients, self, self._health)

        if (replica := current()) is not None:
            return self._applied_once(replica, applied, when)
        return applied() if when is None else tf.cond(tf.cast(when, tf.bool), applied, lambda: tf.constant(False))

    def _applied_once(self, replica: Replica, applied: Callable[[], tf.Tensor], when: Any) -> tf.Tensor:
        """Gradients are the same on all replicas: the first one's are applied, by what one device runs."""
        if when is None:
            return replica.once("run.apply", applied)
        chosen = replica.agreed(tf.cast(when, tf.bool))
        return replica.once("run.apply", lambda: tf.cond(chosen, applied, lambda: tf.constant(False)))

    @engine_code
    def minimize(self, optimizer: str, loss: Any, tape: tf.GradientTape, when: Any = None) -> tf.Tensor:
        """`apply(optimizer, gradients(optimizer, loss, tape), when)`."""
        return self.apply(optimizer, self.gradients(optimizer, loss, tape), when)

    def _of(self, optimizer: str) -> OptimizerGroup:
        if optimizer not in self._minimizers:
            raise JobFailure(
                FailureCode.COMPONENT_ERROR,
                f"the step has no optimizer {optimizer!r}; it declares {sorted(self._minimizers)}",
            )
        return self._minimizers[optimizer]

    @engine_code
    def regularization(self, role: str) -> tf.Tensor:
        """Sum of `model.losses` of the role's last call; a float scalar, 0 where there are none."""
        losses = self.models[role].losses
        if not losses:
            return tf.zeros([], keras.config.floatx())
        return tf.add_n([tf.cast(tf.reduce_sum(loss), keras.config.floatx()) for loss in losses])

    @engine_code
    def update_metrics(self, role: str, y: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Feed the role's metrics of the spec."""
        self.fed.add(role)
        metrics, replica = self._metrics.get(role, ()), current()
        if replica is None:
            metric_updates.update(metrics, y, y_pred, sample_weight)
        elif metrics:  # on the whole batch: whatever a metric computes, it computes as on one device
            replica.gathered(
                "run.update_metrics", (y, y_pred, sample_weight), lambda whole: metric_updates.update(metrics, *whole)
            )

    # ── what `fit` does with a model ─────────────────────────────────────────────────────────────

    @engine_code
    def compute_loss(
        self, role: str, x: Any, y: Any, y_pred: Any, sample_weight: Any = None, training: bool = True
    ) -> tf.Tensor:
        """The loss of `fit`: the model's own `compute_loss`, else the spec's loss plus regularization; a scalar."""
        self.hooks_called.add((role, "compute_loss"))
        if fit_hooks.overrides(self.models[role], "compute_loss"):
            return self._compilation(role).compute_loss(x, y, y_pred, sample_weight, training)
        regularization = self.regularization(role)
        if role not in self.losses:
            return regularization
        loss = self.losses[role](y, y_pred, sample_weight)
        return loss + tf.cast(regularization, loss.dtype)

    @engine_code
    def compute_metrics(self, role: str, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Feed the role's metrics of the spec and call the model's own `compute_metrics`.

        Returns the results of the metrics that the model holds, by name, to be among the step's scalars: they are
        reported as they were at the last step.
        """
        self.hooks_called.add((role, "compute_metrics"))
        results = self._compilation(role).compute_metrics(x, y, y_pred, sample_weight)
        return {name: self.latest(value) for name, value in results.items()}

    @engine_code
    def latest(self, value: Any) -> tf.Tensor:
        """A scalar of the step that is reported as it was at the last step of the epoch, and not averaged."""
        value = tf.convert_to_tensor(value)
        self.latest_values.append(value)
        return value

    def _compilation(self, role: str) -> fit_hooks.SpecCompilation:
        known = role in self.losses  # it is looked up when it is called, which notes its use
        only = next(iter(self._optimizers.values())) if len(self._optimizers) == 1 else None
        return fit_hooks.SpecCompilation(
            self.models[role],
            loss=(lambda *given: self.losses[role](*given)) if known else None,
            metrics=self._metrics.get(role, ()),
            optimizer=self._optimizers.get(role, only),
            update=functools.partial(self.update_metrics, role),
        )

    # ── randomness ───────────────────────────────────────────────────────────────────────────────

    @engine_code
    def random_normal(self, shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None) -> tf.Tensor:
        """`tf.random.normal` from the job's own checkpointed stream."""
        chosen, replica = tf.as_dtype(dtype or keras.config.floatx()), current()
        if replica is None:
            return normal(self.streams.bits, shape, mean, stddev, chosen)
        unit = replica.random(lambda whole: normal(self.streams.bits, whole, 0.0, 1.0, chosen), shape)
        return unit * tf.cast(stddev, chosen) + tf.cast(mean, chosen)

    @engine_code
    def random_uniform(self, shape: Any, minval: Any = 0, maxval: Any = None, dtype: Any = None) -> tf.Tensor:
        """`tf.random.uniform` from the job's own checkpointed stream."""
        chosen = tf.as_dtype(dtype or keras.config.floatx())

        def draw(whole: Any) -> tf.Tensor:
            if chosen.is_floating:
                return uniform(self.streams.bits, whole, minval, maxval, chosen)
            return self.streams.current.uniform(whole, minval, maxval, chosen)

        replica = current()
        return draw(shape) if replica is None else replica.random(draw, shape)

    # ── evaluators and callbacks ─────────────────────────────────────────────────────────────────

    def artifact(self, path: str) -> Path:
        """A local path below the attempt's artifacts. Raises JobFailure `component_error`."""
        if self.artifacts is None or not tf.executing_eagerly():
            raise _outside_only("run.artifact")
        return self.artifacts.path(path)

    def stop(self, reason: str) -> None:
        """End training well after this epoch."""
        if not tf.executing_eagerly():
            raise _outside_only("run.stop")
        self.stop_reason = str(reason)

    def direction(self, monitor: str, mode: str = "auto") -> str:
        """ "min" or "max". Raises JobFailure `invalid_spec` where the value is not reported or declares none."""
        if self.directions is None or not tf.executing_eagerly():
            raise _outside_only("run.direction")
        return self.directions.of(monitor, mode).mode

    def learning_rate(self, optimizer: str, value: float | None = None) -> float:
        """The current learning rate; sets it where a value is given. Raises JobFailure `invalid_spec`."""
        if not tf.executing_eagerly():
            raise _outside_only("run.learning_rate")
        if optimizer not in self._optimizers:
            raise JobFailure(
                FailureCode.INVALID_SPEC, f"the job has no optimizer {optimizer!r}; it has {sorted(self._optimizers)}"
            )
        keras_optimizer = self._optimizers[optimizer]
        if value is not None:
            if not (math.isfinite(value) and value >= 0):
                raise JobFailure(FailureCode.COMPONENT_ERROR, f"{value} cannot be a learning rate")
            try:
                keras_optimizer.learning_rate = float(value)
            except TypeError as error:
                raise JobFailure(
                    FailureCode.INVALID_SPEC,
                    f"a callback sets the learning rate of optimizer {optimizer!r}, whose spec has a schedule for it",
                    hint=f"Give optimizers.{optimizer} a number as learning_rate, or leave the callback out.",
                ) from error
        return float(keras.ops.convert_to_numpy(keras_optimizer.learning_rate))


def _outside_only(what: str) -> JobFailure:
    message = f"{what} is for evaluators and callbacks: a step has no files, stops nothing and sets no learning rate"
    return JobFailure(FailureCode.COMPONENT_ERROR, message)


def _norms(optimizer: str, gradients: Sequence[Any], variables: Sequence[Any]) -> dict[str, float]:
    return {
        f"{optimizer}/{v.path}": float(tf.norm(tf.cast(g.values if isinstance(g, tf.IndexedSlices) else g, tf.float64)))
        for g, v in zip(gradients, variables, strict=True)
        if g is not None
    }


def _names(paths: Sequence[str]) -> str:
    return ", ".join(paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")


class UsedParts(Mapping[str, Any]):
    """A mapping that remembers what was taken out of it."""

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self._parts = parts
        self.used: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        part = self._parts[name]
        self.used.add(name)
        return part

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self._parts else default

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


class LazyMapping(Mapping[str, Any]):
    """Values that are made when they are first asked for: to build a dataset traces it, and few steps look at one."""

    def __init__(self, makers: Mapping[str, Callable[[], Any]]) -> None:
        self._makers = makers
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)
