"""What happens between a loss and the variables, for one optimizer that the step declares.

In this order: gradients of the loss (scaled on its way back in mixed_float16, and unscaled) → the check that they are
finite → the average over `training.gradient_accumulation` calls → for each optimizer of the spec that shares the work:
its transforms in the spec's order → the optimizer. Everything is traced; all state is in variables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from tapeworks.components.interfaces import GradientTransform
from tapeworks.components.uncalled_methods import defined_by_author
from tapeworks.errors import FailureCode, JobFailure
from tapeworks.spec.job_spec import JobSpec
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.devices.devices import Devices
from tapeworks_workers.engine.devices.replica import Replica, current
from tapeworks_workers.engine.factory.build_context import BuildContext
from tapeworks_workers.engine.factory.factory import build
from tapeworks_workers.engine.graph.autograph import call_user_code
from tapeworks_workers.engine.models.ownership import Ownership
from tapeworks_workers.engine.step.accumulation import Accumulator
from tapeworks_workers.engine.step.loss_scale import CurrentScale, LossScale, all_finite


def build_transforms(
    spec: JobSpec, owned: Mapping[str, Sequence[Any]], context: BuildContext
) -> dict[str, list[GradientTransform]]:
    """Optimizer → its transforms in the spec's order; each optimizer has instances, so state, of its own."""
    transforms: dict[str, list[GradientTransform]] = {name: [] for name in owned}
    for index, item in enumerate(spec.gradients):
        for name in owned if item.optimizer is None else [item.optimizer]:
            transform = build(item, Kind.GRADIENT_TRANSFORM, pointer=f"/gradients/{index}", context=context)
            transform.build(list(owned[name]))
            transforms[name].append(transform)
    return transforms


@dataclass(frozen=True)
class OptimizerPart:
    """An optimizer of the spec, and what is done to its gradients first."""

    optimizer: keras.optimizers.Optimizer
    transforms: Sequence[GradientTransform]
    positions: Sequence[int]
    """Where its variables stand among those of the minimizer."""


class OptimizerGroup:
    """One optimizer of the step: the spec's optimizers of its group, and the variables they own together."""

    def __init__(
        self,
        name: str,
        variables: Sequence[Any],
        updaters: Sequence[OptimizerPart],
        *,
        accumulate: int,
        scaled: bool,
        devices: Devices,
    ) -> None:
        self.name = name
        self.variables = list(variables)
        """In the models' order, whichever of the optimizers owns them."""
        self.scale = LossScale() if scaled else None
        self._updaters = updaters
        self._devices = devices
        self._accumulator = Accumulator(name, variables, calls=accumulate) if accumulate > 1 else None

    def state(self) -> dict[str, tf.Variable]:
        """What a checkpoint must hold, beside the optimizers' and transforms' own."""
        parts = {"loss_scale": self.scale, "accumulated": self._accumulator}
        return {
            f"{part}/{self.name}/{name}": variable
            for part, one in parts.items()
            if one is not None
            for name, variable in one.variables().items()
        }

    def gradients(self, loss: Any, tape: tf.GradientTape, health: tf.Variable) -> list[Any]:
        """Unscaled gradients in the variables' order; None for a variable that the loss misses."""
        seeds, replica = self._seeds(loss), current()
        if replica is not None:
            return self._replica_gradients(replica, loss, tape, health, seeds)
        if self.scale is None:
            return list(tape.gradient(loss, self.variables, output_gradients=seeds))
        # Gradients may overflow here, a loss may not.
        health.assign_add(_trace_of_the_infinite(tf.nest.flatten(loss)))
        return self.scale.gradients(tape, loss, self.variables, seeds)

    def _replica_gradients(
        self, replica: Replica, loss: Any, tape: tf.GradientTape, health: tf.Variable, seeds: Any
    ) -> list[Any]:
        """The same of the global batch's loss, from a loss that is the mean of this replica's rows."""
        seeds = replica.seeds(loss, seeds)
        if self.scale is None:
            return replica.summed(tape.gradient(loss, self.variables, output_gradients=seeds))
        trace = replica.finite(_trace_of_the_infinite(tf.nest.flatten(loss)))
        replica.met("run.gradients", trace, lambda traces: health.assign_add(tf.add_n(traces)))
        return replica.summed(self.scale.gradients(tape, loss, self.variables, seeds))

    def _seeds(self, loss: Any) -> Any:
        """What an optimizer's own `scale_loss` multiplies the gradients with, which `fit` calls inside the tape; None
        where none has one."""
        own = [one.optimizer for one in self._updaters if defined_by_author(type(one.optimizer), "scale_loss")]
        if not own:
            return None
        if len(self._updaters) > 1:
            raise JobFailure(
                FailureCode.INVALID_SPEC,
                f"{type(own[0]).__name__} overrides scale_loss, and several optimizers share the gradients of one loss",
                hint=f"Give the spec one optimizer in the place of {self.name!r}, or leave scale_loss out.",
            )

        def derivative(one: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as inner:
                inner.watch(one)
                scaled = own[0].scale_loss(one)
            return inner.gradient(scaled, one)

        return tf.nest.map_structure(derivative, loss)

    def apply(self, gradients: Sequence[Any], run: Any, health: tf.Variable) -> tf.Tensor:
        """Whether variables changed: a bool scalar. Gradients that overflowed in mixed_float16 are dropped, uncounted.

        Where they are not finite for another reason, `health` turns NaN.
        """
        positions = [index for index, gradient in enumerate(gradients) if gradient is not None]
        given = [gradients[index] for index in positions]
        if not given:
            return tf.constant(False)

        def update(averaged: Sequence[Any]) -> tf.Tensor:
            self._update(dict(zip(positions, averaged, strict=True)), run)
            return tf.constant(True)

        def count() -> tf.Tensor:
            return update(given) if self._accumulator is None else self._accumulator.add(positions, given, update)

        if self.scale is None:
            health.assign_add(_trace_of_the_infinite(given))
            return count()
        finite = all_finite(given)
        health.assign_add(self.scale.update(finite))
        return tf.cond(finite, count, lambda: tf.constant(False))

    def _update(self, gradients: Mapping[int, Any], run: Any) -> None:
        for updater in self._updaters:
            own = [index for index in updater.positions if index in gradients]
            variables = [self.variables[index] for index in own]
            changed = [gradients[index] for index in own]
            for transform in updater.transforms:
                changed = list(call_user_code(transform, changed, variables, run))
                if len(changed) != len(variables):
                    raise JobFailure(
                        FailureCode.COMPONENT_ERROR,
                        f"gradient transform {type(transform).__name__} returned {len(changed)} gradients for "
                        f"{len(variables)} variables",
                    )
            updater.optimizer.apply_gradients(zip(changed, variables, strict=True))  # as fit does: it may be overridden
        self._devices.copy(self.variables)


def build_minimizers(
    spec: JobSpec,
    ownership: Ownership,
    optimizers: Mapping[str, keras.optimizers.Optimizer],
    transforms: Mapping[str, Sequence[GradientTransform]],
    devices: Devices,
) -> dict[str, OptimizerGroup]:
    """A minimizer for each optimizer that the step declares."""
    minimizers = {}
    for name, members in ownership.groups.items():
        variables = ownership.reached[name]
        positions = {id(variable): index for index, variable in enumerate(variables)}
        updaters = [
            OptimizerPart(optimizers[one], transforms[one], [positions[id(v)] for v in ownership.owned[one]])
            for one in members
        ]
        minimizers[name] = OptimizerGroup(
            name,
            variables,
            updaters,
            accumulate=spec.training.gradient_accumulation,
            scaled=spec.training.precision == "mixed_float16",
            devices=devices,
        )
    return minimizers


def named_metrics(
    transforms: Mapping[str, Sequence[GradientTransform]], minimizers: Mapping[str, OptimizerGroup]
) -> dict[str, keras.metrics.Metric]:
    """What transforms measure, and loss scales, as an epoch's logs name them.

    The optimizer's name goes before a metric's where there are several. Raises JobFailure `invalid_spec` where two have
    one name.
    """
    named: dict[str, keras.metrics.Metric] = {}
    measured = [(name, metric) for name, several in transforms.items() for one in several for metric in one.metrics]
    for name, metric in measured:
        full = f"{name}_{metric.name}" if len(transforms) > 1 else metric.name
        if full in named:
            raise JobFailure(
                FailureCode.INVALID_SPEC,
                f"two gradient transforms of optimizer {name!r} report {metric.name!r}",
                hint='Give one of them a name of its own, as in {"config": {"name": "…"}}.',
            )
        named[full] = metric
    for name, minimizer in minimizers.items():
        if minimizer.scale is not None:
            named[f"{name}_loss_scale" if len(minimizers) > 1 else "loss_scale"] = CurrentScale(minimizer.scale)
    return named


def _trace_of_the_infinite(values: Sequence[Any]) -> tf.Tensor:
    """0, or NaN where a value is not finite: a float32 scalar. NaN + anything stays NaN, so adding it up remembers."""
    sums = [tf.reduce_sum(one.values if isinstance(one, tf.IndexedSlices) else one) for one in values]
    return 0.0 * tf.add_n([tf.cast(one, tf.float32) for one in sums])
