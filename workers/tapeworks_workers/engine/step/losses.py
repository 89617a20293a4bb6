"""The losses of a spec as a step calls them: `loss(y_true, y_pred, sample_weight=None)` gives a scalar.

`RoleLoss` is what a role of the spec names: one loss for every output, or losses by output; their weighted sum, as
`fit` computes it. `OutputLoss` is one loss on the tensors of one output. Mistakes that TensorFlow lets pass, or answers
differently on each device, are caught here: labels outside the model's outputs (label_ranges.py), examples that are
combined with other examples (example_axis.py), logits taken for probabilities (logits.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure, Location
from tapeworks_workers.engine.data.checks.label_domains import LabelDomain
from tapeworks_workers.engine.data.checks.label_ranges import LabelRanges, takes_labels
from tapeworks_workers.engine.devices.replica import current
from tapeworks_workers.engine.diagnostics.error_owners import of_part, shapes
from tapeworks_workers.engine.diagnostics.example_mixing import (
    Added,
    crossings,
    declared,
    note_of,
    traced,
    without_examples,
)
from tapeworks_workers.engine.diagnostics.retracing import Note
from tapeworks_workers.engine.graph.autograph import engine_code, outside_trace
from tapeworks_workers.engine.models import outputs
from tapeworks_workers.engine.step import logits
from tapeworks_workers.engine.step.metrics import RoleMetric

_KNOWN = ("keras", "tapeworks_workers")
"""Packages of losses that leave out no label but their `ignore_class`."""


class OutputLoss:
    """One loss of the spec, on tensors. `component` is its name there, for messages; `weight` is for `RoleLoss`."""

    def __init__(self, loss: Any, *, component: str, weight: float = 1.0) -> None:
        self.loss = loss
        self.component = component
        self.weight = weight
        known = getattr(getattr(loss, "fn", None), "__module__", type(loss).__module__).partition(".")[0] in _KNOWN
        self.ranges = LabelRanges(component, ignored=declared(loss, "ignore_class"), certain=known)
        self.domain = LabelDomain.of(loss, component)
        self.notes: list[Note] = []
        """What was found while tracing and is no failure."""
        self._examined = False

    @engine_code
    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> tf.Tensor:
        dense = isinstance(y_true, tf.Tensor) and isinstance(y_pred, tf.Tensor)
        if dense and tf.is_symbolic_tensor(y_pred):
            self._check_logits(y_pred)
        with of_part(f"loss {self.component!r} {shapes(y_true, y_pred)}", self.component), Added() as added:
            value = self.loss(y_true, y_pred, sample_weight=sample_weight)
        if dense:
            self._check_labels(added, y_true, y_pred)
            if self.domain is not None:
                self.domain.keep(y_true, y_pred, sample_weight)
            self._check_examples(added, y_true, y_pred, sample_weight)
        return value

    def _check_logits(self, y_pred: tf.Tensor) -> None:
        mismatch = logits.mismatch(self.loss, y_pred)
        if mismatch is not None:
            message, hint = mismatch
            self._note(
                Note("from_logits", f"loss {self.component!r} {message}", hint, Location(component=self.component))
            )

    def _check_labels(self, added: Added, y_true: tf.Tensor, y_pred: tf.Tensor) -> None:
        if added.operations:
            self.ranges.keep(added.operations, added.inside(y_true).name, added.inside(y_pred).name)
        elif isinstance(self.loss, keras.losses.SparseCategoricalCrossentropy) and takes_labels(y_true, y_pred):
            self.ranges.keep_of(y_true, int(y_pred.shape[-1]))  # without a graph

    def _check_examples(self, added: Added, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: Any) -> None:
        if declared(self.loss, "pairwise") or self._examined:
            return
        if tf.executing_eagerly():  # a step without a graph: as one example of a trace
            self._examined = True
            added, (y_true, y_pred) = traced(getattr(self.loss, "call", self.loss), (y_true, y_pred))
            sample_weight = None
        if (lost := without_examples(y_true, y_pred)) is not None:
            hint = "Keep the batch axis: reduce over axis 1 and later. If it is meant, set pairwise = True on the loss."
            place = Location(component=self.component)
            self._note(Note(FailureCode.BROADCAST_LOSS, f"loss {self.component!r}: {lost}", hint, place))
        roots = added.roots(y=y_true, outputs=y_pred, weights=sample_weight)
        for crossing in crossings(added.operations, roots):
            note = note_of(crossing, f"loss {self.component!r}", self.component)
            if crossing.certain:
                raise JobFailure(FailureCode.BROADCAST_LOSS, note.message, hint=note.hint, location=note.location)
            self._note(note)

    def _note(self, note: Note) -> None:
        """Each kind once: validation is traced too, and says the same."""
        if all(one.code != note.code for one in self.notes):
            self.notes.append(note)


class Losses(dict[str, Any]):
    """Name → loss; one that the spec does not fill is named in the error."""

    def __missing__(self, name: str) -> Any:
        raise JobFailure(
            FailureCode.INVALID_SPEC, f"the step uses the loss {name!r}, the spec's losses have {sorted(self)}"
        )


@dataclass
class Term:
    """One loss on one output."""

    index: int
    loss: OutputLoss
    label: str
    """What `fit` puts before `_loss`."""


@dataclass
class RoleLoss:
    """The weighted sum of losses over a model's outputs.

    `parts`: (output, loss); an output of None stands for every one. `output_names` are a functional model's.
    """

    name: str
    parts: Sequence[tuple[str | None, OutputLoss]]
    output_names: Sequence[str] | None = None
    tracked: bool = False
    """Whether the losses of several outputs are reported one by one."""
    trackers: list[RoleMetric] = field(default_factory=list)
    """Their means over the batches, made when a trace shows the outputs."""
    pending: dict[str, Any] = field(default_factory=dict)
    """Restored values of variables that are made later; the assembly's."""
    structure: Any = None
    """The structure of the outputs at the last call, a number for each."""
    of_output: list[list[OutputLoss]] = field(default_factory=list)
    """The losses of each of these outputs."""

    @engine_code
    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> tf.Tensor:
        if all(declared(loss.loss, "takes_all_outputs") for _, loss in self.parts):
            total = [loss.weight * loss(y_true, y_pred, sample_weight) for _, loss in self.parts]
            return total[0] if len(total) == 1 else tf.add_n(total)
        found = outputs.outputs_of(y_pred, self.output_names)
        terms = self._terms(found)
        labels = outputs.labels_of(y_true, y_pred, found, {term.index for term in terms})
        weights = outputs.weights_of(sample_weight, found)
        values = [
            term.loss(labels[term.index], found[term.index].value, sample_weight=weights[term.index]) for term in terms
        ]
        self._remember(y_pred, found, terms)
        if self.tracked and len(terms) > 1:
            self._track(terms, values)
        return _sum([value if term.loss.weight == 1.0 else value * tf.cast(term.loss.weight, value.dtype)
                     for term, value in zip(terms, values, strict=True)])  # fmt: skip

    def _terms(self, found: Sequence[outputs.Output]) -> list[Term]:
        terms = []
        for key, loss in self.parts:
            chosen = range(len(found)) if key is None else [outputs.find(key, found, what="losses")]
            name = str(getattr(loss.loss, "name", "loss"))
            terms += [Term(index, loss, outputs.loss_label(found[index], name)) for index in chosen]
        return terms

    def _remember(self, y_pred: Any, found: Sequence[outputs.Output], terms: Sequence[Term]) -> None:
        self.structure = keras.tree.pack_sequence_as(y_pred, list(range(len(found))))
        self.of_output = [[term.loss for term in terms if term.index == index] for index in range(len(found))]

    def _track(self, terms: Sequence[Term], values: Sequence[tf.Tensor]) -> None:
        """As `fit`: means over batches, whatever their size; of two losses with one name the last is reported."""
        labels = [f"{term.label}_loss" for term in terms]
        replica = current()
        if replica is None:
            self._update_trackers(labels, values)
        else:
            replica.means("run.losses", values, lambda means: self._update_trackers(labels, means))

    def _update_trackers(self, labels: Sequence[str], values: Sequence[tf.Tensor]) -> None:
        named = dict(zip(labels, values, strict=True))
        if not self.trackers:
            with outside_trace():
                self.trackers = [RoleMetric(name, keras.metrics.Mean(name=name), None, False) for name in named]
                for tracker in self.trackers:
                    for index, variable in enumerate(tracker.metric.variables):
                        value = self.pending.pop(f"metrics/{tracker.name}/{index}", None)
                        if value is not None:
                            variable.assign(value)
        for tracker in self.trackers:
            tracker.metric.update_state(named[tracker.name])

    @property
    def losses(self) -> Iterator[OutputLoss]:
        """Each loss once."""
        return (loss for _, loss in self.parts)

    @property
    def notes(self) -> list[Note]:
        """What was found while tracing and is no failure."""
        return [note for loss in self.losses for note in loss.notes]

    @property
    def _watches(self) -> Iterator[LabelRanges | LabelDomain]:
        """What looks at the labels of each loss."""
        for loss in self.losses:
            yield loss.ranges
            if loss.domain is not None:
                yield loss.domain

    def label_variables(self) -> list[tf.Variable]:
        """See `LabelRanges.variables`."""
        return [one for watch in self._watches for one in watch.variables()]

    def labels_beyond(self) -> list[tf.Tensor]:
        """See `LabelRanges.beyond`."""
        return [one for watch in self._watches for one in watch.beyond()]

    def check_labels(self) -> list[Note]:
        """See `LabelRanges.check`."""
        return [note for watch in self._watches for note in watch.check()]


def _sum(values: Sequence[tf.Tensor]) -> tf.Tensor:
    total = values[0]
    for value in values[1:]:
        total = total + tf.cast(value, total.dtype)
    return total
