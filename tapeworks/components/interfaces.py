"""What a user subclasses when a named component is not enough.

Nothing here imports TensorFlow: modules with components import it themselves, and are imported
only where TensorFlow is. Register a subclass with `@tapeworks.component(name)`.

Interface: `TrainingStep` (how a batch trains the models), `Source` (where elements come from),
`GradientTransform` (what is done to gradients), `Evaluator` and `Callback` (whole-set measures and
actions at epoch ends). `Run` is what the engine hands to them: the only door from a component to
the engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

Tensor = Any
"""A tf.Tensor (RaggedTensor, SparseTensor)."""
Spec = Any
"""A nest of tf.TensorSpec (RaggedTensorSpec, SparseTensorSpec)."""


class _FilesMark:
    """Marks an argument whose value is a glob below a data root, or a dataset's id."""


Files = Annotated[str | list[str], _FilesMark()]
"""Annotation of a source's argument: the engine replaces the glob with the list of local paths, sorted."""


class _BranchMark:
    """Marks an argument, or a part of one, that holds a source with operations of its own."""


Branch = Annotated[dict[str, Any], _BranchMark()]
"""Annotation in a `SourceOfSources`: a source's reference, or `{"source": …, "pipeline": […]}`."""


class _EarlierMark:
    """Marks an argument whose value names an earlier job."""


EarlierJob = Annotated[str, _EarlierMark()]
"""Annotation of a component's argument: the engine replaces the name with an object whose `model(role=None)` gives a
Keras model of that job's bundle."""


class Run(Protocol):
    """The engine, as a component sees it. Inside `train_step` everything here may be called under tracing."""

    models: Mapping[str, Any]
    """Role → keras.Model."""
    losses: Mapping[str, Any]
    """Name → loss: `loss(y_true, y_pred, sample_weight=None)` gives a scalar."""
    optimizers: Sequence[str]
    """The names of the spec's optimizers."""
    datasets: Mapping[str, Any]
    """`training`, `validation`: batched tf.data.Datasets; outside the trace only."""
    step: Tensor
    """int64 scalar: steps done so far."""
    training_step: TrainingStep
    """The job's step; evaluators and callbacks reach its variables and functions here."""

    def gradients(self, optimizer: str, loss: Tensor, tape: Any) -> list[Tensor]:
        """Unscaled gradients of `loss` with respect to the variables that `optimizer` owns, in their order.

        Raises JobFailure `no_gradient` naming the variables, where none of them gets one.
        """

    def apply(self, optimizer: str, gradients: Sequence[Tensor], when: Tensor | None = None) -> Tensor:
        """Accumulate, transform and apply. `when` (bool scalar) False: nothing happens, nothing is counted.

        Returns a bool scalar: whether variables changed.
        """

    def minimize(self, optimizer: str, loss: Tensor, tape: Any, when: Tensor | None = None) -> Tensor:
        """`apply(optimizer, gradients(optimizer, loss, tape), when)`."""

    def regularization(self, role: str) -> Tensor:
        """Sum of `model.losses` of the role's last outermost call; a float scalar, 0 where there are none."""

    def update_metrics(self, role: str, y: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Feed the role's metrics of the spec."""

    def compute_loss(
        self, role: str, x: Any, y: Any, y_pred: Any, sample_weight: Any = None, training: bool = True
    ) -> Tensor:
        """The loss as `fit` computes it: the model's own `compute_loss`, else the loss of the spec that is named as the
        role, plus `regularization(role)`; a float scalar."""

    def compute_metrics(self, role: str, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Tensor]:
        """Feed the role's metrics of the spec, and call the model's own `compute_metrics` where it has one.

        Returns the results of the metrics that the model holds: return them among the step's scalars.
        """

    def latest(self, value: Tensor) -> Tensor:
        """A scalar that is reported as it was at the last step of the epoch, and not averaged over the epoch."""

    def random_normal(self, shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None) -> Tensor:
        """tf.random's arguments; seeded and checkpointed. Validation draws from a stream of its own."""

    def random_uniform(self, shape: Any, minval: Any = 0, maxval: Any = None, dtype: Any = None) -> Tensor:
        """tf.random's arguments; seeded and checkpointed."""

    def artifact(self, path: str) -> Path:
        """A local path to write a file to; it is uploaded at the attempt's end. Evaluators and callbacks only.

        `path`: relative, of plain names (`samples/epoch-3.png`); its folder is there. Raises JobFailure
        `component_error` for any other.
        """

    def stop(self, reason: str) -> None:
        """End training well after this epoch. Callbacks only."""

    def direction(self, monitor: str, mode: str = "auto") -> str:
        """ "min" or "max": the mode in which a value of the epoch's logs is the best. Callbacks only, from `build` on.

        Raises JobFailure `invalid_spec` where the value is not reported, or `mode` is "auto" and nothing declares it.
        """

    def learning_rate(self, optimizer: str, value: float | None = None) -> float:
        """The current learning rate; sets it where a value is given. Callbacks only.

        Raises JobFailure `invalid_spec` where a value is given and a schedule sets it.
        """


class TrainingStep:
    """How one batch trains the models.

    Declarations may be class attributes or be set in `__init__`:
    `models` are built in this order; `optimizers` maps a name to the roles whose variables it owns;
    `losses` are the names the spec must fill (`run.losses`), less the `optional_losses` among them;
    `frozen` are roles nobody trains; `exported` are the roles that a spec without `export.models`
    exports: None means those that an optimizer owns.
    """

    models: Sequence[str] = ("model",)
    optimizers: Mapping[str, Sequence[str]] = {"model": ("model",)}
    losses: Sequence[str] = ()
    optional_losses: Sequence[str] = ()
    frozen: Sequence[str] = ()
    exported: Sequence[str] | None = None
    directions: Mapping[str, Literal["min", "max"]] = {}  # a declaration
    """Name of a returned scalar → which of its values is the best, for `mode: "auto"`; `loss` needs none."""
    reports_output_losses: bool = False
    """Whether the losses of a model's outputs are reported one by one as well, as `fit` does: `a_loss`, `b_loss`."""

    def build(self, run: Run) -> None:
        """Create variables and statistics; called once, outside any trace, after the models are built."""

    def input_spec(self, role: str, element: Spec, models: Mapping[str, Any]) -> Spec:
        """The nest of specs that `role` is called with. `element` is a batch with its batch dimension relaxed;
        `models` are those built before. Default: the element's `x`."""
        return element[0] if isinstance(element, tuple) else element

    def train_step(self, batch: Any, run: Run) -> dict[str, Tensor]:
        """Train on one batch; traced once. Returns named scalars: averaged over the epoch, weighted by batch size.

        A scalar that is computed from the result of a `keras.metrics.Metric` which the step or a model holds is
        reported as it was last: the metric has averaged it. Such metrics are reset when an epoch, a validation or a
        test begins.
        """
        raise NotImplementedError(f"{type(self).__name__} must define train_step(batch, run)")

    def validation_step(self, batch: Any, run: Run) -> dict[str, Tensor]:
        """Like train_step without training; names get `val_`. Optional: without it `data.validation` is refused."""
        raise NotImplementedError(f"{type(self).__name__} has no validation_step")

    def signatures(self, models: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Role → name → tf.function with an input_signature, exported beside `serving_default`."""
        return {}

    @classmethod
    def can_validate(cls) -> bool:
        """Whether the class defines validation_step."""
        return cls.validation_step is not TrainingStep.validation_step


class Source:
    """Where elements come from: `x`, `(x, y)` or `(x, y, sample_weight)`; x and y may be dicts."""

    batched: ClassVar[bool] = False
    """True where the elements are batches already."""

    def dataset(self) -> Any:
        """A tf.data.Dataset; finite unless the job says steps_per_epoch."""
        raise NotImplementedError(f"{type(self).__name__} must define dataset()")

    def files(self) -> list[Path]:
        """The files that were read: their digests go into the job's lineage."""
        return []

    def left_out(self) -> list[str]:
        """What the source leaves out by itself, a sentence each: diagnostics `left_out` when the job starts."""
        return []

    def rows_by_file(self) -> list[int] | None:
        """How many elements come from each file, where all of a file come before those of the next; None: unknown."""
        return None

    def column(self, name: str) -> Any | None:
        """A tf.data.Dataset of `{name: value}` for a column of the data that is no part of the elements, in their
        order: a split may go by it. None where there is none."""
        return None

    def feature_names(self) -> list[str] | None:
        """The columns of a vector x, in order; None where x is something else."""
        return None

    def adopt_dtypes(self, training: Source) -> None:
        """Called before `dataset` on a source of another split, of the same class as the training split's: what one
        file lacks must not give a column another dtype there."""

    missing_labels: bool = False
    """Whether y is -1 where a row has no label: `drop_missing` leaves such rows out."""
    classes: Sequence[str] | None = None
    """Where `class_names` gives names: the list that numbers them, as the config gives it. Where it gives none, the
    engine sets the list of the training split before it calls `dataset`."""

    def class_names(self) -> list[str] | None:
        """The names of the labels that the data holds; None where labels are numbers already."""
        return None

    def class_order(self, name: str) -> Any:
        """The sort key of a name in a list of classes that no config gives."""
        return name

    def single_class(self, name: str) -> tuple[str, str]:
        """Why the data holds only one class, and the remedy: such labels teach nothing."""
        return (
            f"every file lies in a folder named {name!r}",
            "A class is the name of the folder that holds the file (train/cat/1.png). Move the files, or give "
            '"labels": null where labels are not used, or "classes": a list, if there is only one class.',
        )

    def skipped(self) -> list[str]:
        """What is left out because it cannot be read: one text for each, with the file and the reason."""
        return []

    skipped_kind: ClassVar[str] = "files"
    """What `skipped` counts."""

    def explain(self, error: Exception) -> Exception | None:
        """An error of the running pipeline, as one that names the file; None where it is not of this source."""
        return None


class SourceOfSources(Source):
    """A source made of others: `zip`, `concatenate`, `sample`.

    Its `__init__` takes `sources: dict[str, Branch]` or `list[Branch]`. The engine builds them, cuts the splits of
    each, runs their pipelines and calls `combine` for each split and pass; `dataset` is not called.
    """

    sources: Mapping[str, Any] | Sequence[Any]
    """The argument as it was given."""

    def combine(self, datasets: Any, seed: int) -> Any:
        """A tf.data.Dataset from those of the sources, a dict or a list as `sources` is; `seed`: another each pass."""
        raise NotImplementedError(f"{type(self).__name__} must define combine(datasets, seed)")


class GradientTransform:
    """What is done to the gradients of one optimizer before they are applied, in the spec's order."""

    metrics: Sequence[Any] = ()
    """keras.metrics.Metric objects, made in `__init__` or `build`, that `__call__` updates; logs hold them."""

    def build(self, variables: Sequence[Any]) -> None:
        """Create state for these variables, outside any trace."""

    def __call__(self, gradients: Sequence[Tensor], variables: Sequence[Any], run: Run) -> Sequence[Tensor]:
        """New gradients, in the same order; must handle tf.IndexedSlices."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(gradients, variables, run)")


class Evaluator:
    """A measure over the whole validation or test split."""

    directions: Mapping[str, Literal["min", "max"]] = {}  # a declaration
    """Name of a value → which one is the best, for `mode: "auto"`; a class attribute, or set in `__init__`."""

    def evaluate(self, dataset: Any, run: Run) -> dict[str, float]:
        """Named values; reported as `val_…` or `test_…`, may be monitored."""
        raise NotImplementedError(f"{type(self).__name__} must define evaluate(dataset, run)")


class Callback:
    """Actions between epochs and reports; never within the compiled loop."""

    def build(self, run: Run) -> None:
        """Before training, once everything is traced: check arguments, ask `run.direction(monitor)`."""

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float], run: Run) -> None:
        """After validation of an epoch; epochs count from 1."""

    def on_report(self, step: int, logs: Mapping[str, float], run: Run) -> None:
        """After metrics were read at a step inside an epoch, `training.report_every_steps` apart."""

    def state(self) -> dict[str, Any]:
        """What the callback must remember, as JSON: part of every checkpoint."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave, in an attempt that goes on from a checkpoint."""
