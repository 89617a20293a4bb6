"""From `data` of the spec to the datasets of a job: sources, splits, operations.

The splits are cut from the source before the pipeline, and the same operations run on each, less
those that are for training only. `Split.dataset(number)` gives the dataset of one pass.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tapeworks.components.interfaces import Source
from tapeworks.errors import FailureCode, JobFailure
from tapeworks.spec.job_spec import JobSpec, TrainingSpec
from tapeworks.spec.references import ReferenceFields
from tapeworks.spec.splits import FilesSplit, FoldersSplit
from tapeworks.spec.splits import Split as SplitSpec
from tapeworks_workers.components.sources import query_results
from tapeworks_workers.engine.data import class_names, operations
from tapeworks_workers.engine.data import sources as origins
from tapeworks_workers.engine.data.checks import broken_files
from tapeworks_workers.engine.data.checks.resume_warnings import Remarks
from tapeworks_workers.engine.data.in_memory import Rows
from tapeworks_workers.engine.data.pipeline_context import PipelineContext
from tapeworks_workers.engine.data.source_lineage import lineage
from tapeworks_workers.engine.data.sources import TRAINING, BranchNode, SourceNode, SplitSource, open_source
from tapeworks_workers.engine.data.splitting import files as split_files
from tapeworks_workers.engine.factory.build_context import BuildContext
from tapeworks_workers.engine.factory.data_files import DataFiles
from tapeworks_workers.engine.graph import stateless_random
from tapeworks_workers.engine.graph.element_spec import named_leaves
from tapeworks_workers.engine.graph.randomness import derive_seed

_MIXED = (
    "the source {component!r} reads {found} as one: files that seem to be splits. Name the files of one split, or set "
    '"validation" or "test" to {{"split": "folders"}}'
)


@dataclass(frozen=True)
class Split:
    """One split of the data, batched."""

    name: str
    element_spec: Any
    """Nest of specs of a batch, the batch dimension None."""
    steps: int | None
    """Batches in a pass; None where only iterating tells."""
    dataset: Callable[[int], tf.data.Dataset] = field(repr=False)
    """The dataset of pass 0, 1, …"""
    stream: Callable[[int], tf.data.Dataset] | None = field(default=None, repr=False)
    """The batches from a number on, pass after pass without end; None where only tf.data knows what comes next."""
    rows: Rows | None = field(default=None, repr=False)
    """What batches are gathered from, where they are nothing else than rows in memory."""
    batch_size: int | None = None
    """Of a full batch, where it is known."""

    def first(self, count: int) -> list[Any]:
        """So many batches of pass 0, or all there are. As tensors: as arrays, ragged ones would be nested."""
        if self.rows is None:
            return list(self.dataset(0).take(count))
        return [self.rows.batch(tf.constant(number, tf.int64)) for number in range(min(count, self.rows.steps))]


@dataclass(frozen=True)
class Data:
    """The datasets of a job."""

    training: Split
    validation: Split | None
    test: Split | None
    sources: dict[str, Any]
    """For the lineage: split → component, and its files with their digests."""
    plain: Callable[[], tf.data.Dataset] = field(repr=False)
    """One pass over the training split as other splits are seen: no shuffle, repeat or training-only operation."""
    remarks: Remarks = field(default_factory=lambda: Remarks(False), repr=False)
    """State that no checkpoint holds."""
    class_names: Any = None
    """The names that labels number, in order: a list, or one by branch of `zip`; None where labels are numbers."""
    absent_classes: list[str] = field(default_factory=list)
    """Classes that a split holds nothing of, a message for each split."""
    notes: list[tuple[str, str]] = field(default_factory=list)
    """Diagnostics of the splits: code and message, each once."""
    read: dict[str, list[Source]] = field(default_factory=dict, repr=False)
    """Component → its sources, those inside others included."""

    @property
    def element_spec(self) -> Any:
        """The element spec of a training batch."""
        return self.training.element_spec

    def all_sources(self) -> list[Source]:
        """Every source that reads data."""
        return [source for sources in self.read.values() for source in sources]

    def feature_names(self) -> list[str] | None:
        """The columns of a vector x, where all sources that have a vector agree."""
        found = [names for source in self.all_sources() if (names := source.feature_names()) is not None]
        return found[0] if found and all(names == found[0] for names in found) else None

    def left_out(self) -> list[tuple[str, str]]:
        """(component, sentence) of what sources leave out by themselves, once for sources that read the same files."""
        found = ((name, note) for name, sources in self.read.items() for one in sources for note in one.left_out())
        return list(dict.fromkeys(found))

    def skipped(self) -> list[str]:
        """What sources leave out because it cannot be read, a message for each source."""
        messages = [broken_files.skipped_message(name, one) for name, sources in self.read.items() for one in sources]
        return [message for message in messages if message is not None]


def build_data(spec: JobSpec, files: DataFiles | None = None) -> Data:
    """Build sources, splits and pipelines. `files`: what the job may read, no file by default.

    Raises JobFailure, and whatever a source raises.
    """
    # Sources make their floats as precise as the job: by Keras' own word for it.
    keras.config.set_floatx("float64" if spec.training.precision == "float64" else "float32")
    remarks = Remarks(wanted=spec.training.deterministic)
    files = files or DataFiles()
    setting = PipelineContext(spec.training.seed, spec.training.deterministic, BuildContext(files), remarks)
    with stateless_random.seeded(derive_seed(spec.training.seed, "data")), query_results.available(files.query_rows):
        return _built(spec, setting)


def _built(spec: JobSpec, setting: PipelineContext) -> Data:
    given = {"validation": spec.data.validation, "test": spec.data.test}
    fractions = {name: one for name, one in given.items() if isinstance(one, SplitSpec)}
    opened = _opened(spec, setting)
    origin = opened[TRAINING]
    for one in opened.values():
        if one is not origin and isinstance(one, SourceNode) and isinstance(origin, SourceNode):
            if type(one.source) is type(origin.source):
                one.source.adopt_dtypes(origin.source)
    names = class_names.settle(opened)
    read: dict[str, list[Source]] = {}
    for one in opened.values():
        for component, source in one.named_sources():
            read.setdefault(component, []).append(source)
    sources = {name: lineage(one, _sha256) for name, one in opened.items()}
    with broken_files.named([source for found in read.values() for source in found]):
        raw: dict[str, SplitSource | None] = {"validation": None, "test": None}
        raw |= {name: one.split({}, name)[name] for name, one in opened.items() if name != TRAINING}
        cut = origin.split(fractions)
        raw |= cut
        splits = {name: _pipeline(spec, name, one, setting) for name, one in raw.items() if one is not None}

    def plain() -> tf.data.Dataset:
        # Of its own functions: what they are built with is as random as in the splits.
        with stateless_random.seeded(derive_seed(spec.training.seed, "data", "plain")):
            return one_pass()

    def one_pass() -> tf.data.Dataset:
        return origins.apply_pipeline(
            cut[TRAINING], spec.data.pipeline, split="plain", setting=setting, pointer=""
        ).dataset(0)

    return Data(
        splits[TRAINING],
        splits.get("validation"),
        splits.get("test"),
        sources,
        plain,
        setting.remarks,
        names,
        class_names.absent(opened),
        list(dict.fromkeys(setting.notes)),
        read,
    )


def _opened(spec: JobSpec, setting: PipelineContext) -> dict[str, SourceNode | BranchNode]:
    """The source of `training`, and of each split that has files or a source of its own."""
    source = spec.data.source
    given = {"validation": spec.data.validation, "test": spec.data.test}
    by_file = {name: one for name, one in given.items() if isinstance(one, FilesSplit | FoldersSplit)}
    files = split_files.divide(source, by_file, setting.build.files, setting.notes) if by_file else {}
    opened = {TRAINING: open_source(source, setting, pointer="/data/source", files=files.get(TRAINING))}
    for name, one in given.items():
        if name in by_file:
            opened[name] = open_source(source, setting, pointer=f"/data/{name}", files=files[name])
        elif isinstance(one, ReferenceFields):
            opened[name] = open_source(one, setting, pointer=f"/data/{name}")
    for origin in opened.values():
        for component, read in origin.named_sources():
            if (found := split_files.mixed(read.files(), setting.build.files)) is not None:
                setting.notes.append(("mixed_splits", _MIXED.format(component=component, found=found)))
    return opened


def _pipeline(spec: JobSpec, name: str, raw: SplitSource, setting: PipelineContext) -> Split:
    piped = origins.apply_pipeline(raw, spec.data.pipeline, split=name, setting=setting, pointer="/data/pipeline")
    if not piped.batched:
        raise JobFailure(
            FailureCode.INVALID_SPEC,
            f"the {name} split is never batched",
            hint='Add {"op": "batch", "batch_size": 32} to data.pipeline.',
        )
    prefetched = any(one.op == "prefetch" and (name == TRAINING or not one.training_only) for one in spec.data.pipeline)

    def ready(result: tf.data.Dataset) -> tf.data.Dataset:
        # Where nothing runs in parallel there is nothing to tune, and the thread that would do it costs every pass
        # 20 ms at its end: as much as 30 small steps. Prefetch sizes its own buffer then.
        options = tf.data.Options()
        options.autotune.enabled = _runs_in_parallel(result)
        return (result if prefetched else result.prefetch(operations.AUTOTUNE)).with_options(options)

    def dataset(number: int) -> tf.data.Dataset:
        return ready(piped.dataset(number))

    stream = piped.stream
    if piped.rows is not None:  # known without a dataset, which would be traced for it
        size, element_spec = piped.rows.steps, piped.rows.element_spec
    else:
        first = dataset(0)
        size, element_spec = int(first.cardinality()), first.element_spec
    if size == 0:
        raise empty(name)
    if size == tf.data.INFINITE_CARDINALITY:
        _check_end(name, spec.training)
    _check_precision(element_spec, name, spec.training.precision)
    return Split(
        name=name,
        element_spec=tf.nest.map_structure(lambda leaf: relaxed(leaf, name), element_spec),
        steps=size if size > 0 else None,
        dataset=dataset,
        stream=None if stream is None else lambda number: ready(stream(number)),
        rows=piped.rows,
        batch_size=_batch_size(spec, element_spec),
    )


def _batch_size(spec: JobSpec, element_spec: Any) -> int | None:
    """What every full batch holds: as the dataset says, else as the last operation that batches does."""
    sizes = {leaf.shape[0] if leaf.shape.rank else None for leaf in tf.nest.flatten(element_spec)}
    size = sizes.pop() if len(sizes) == 1 else None
    if size is not None:
        return int(size)
    batching = [one for one in spec.data.pipeline if one.op in ("batch", "padded_batch", "rebatch")]
    return batching[-1].batch_size if batching else None


def _runs_in_parallel(dataset: tf.data.Dataset) -> bool:
    """Whether tf.data has a degree of parallelism to choose in it."""
    return "Parallel" in type(dataset).__name__ or any(map(_runs_in_parallel, dataset._inputs()))


def relaxed(spec: Any, name: str) -> Any:
    """A batch's spec with its batch dimension unknown, so that a short last batch is no new shape."""
    if not isinstance(spec, tf.TensorSpec | tf.RaggedTensorSpec | tf.SparseTensorSpec):
        raise JobFailure(FailureCode.INVALID_DATA, f"the {name} split holds {spec}, which cannot be trained on")
    if spec.shape.rank is None:
        return spec
    if spec.shape.rank == 0:
        raise JobFailure(FailureCode.INVALID_DATA, f"the {name} split holds scalars instead of batches: {spec}")
    shape = [None, *spec.shape.as_list()[1:]]
    if isinstance(spec, tf.TensorSpec):
        return tf.TensorSpec(shape, spec.dtype)
    if isinstance(spec, tf.SparseTensorSpec):
        return tf.SparseTensorSpec(shape, spec.dtype)
    return tf.RaggedTensorSpec(shape, spec.dtype, spec.ragged_rank, spec.row_splits_dtype)


def _check_end(name: str, training: TrainingSpec) -> None:
    """An endless split is fine where something else ends the epoch."""
    if name != "training":
        raise JobFailure(
            FailureCode.INVALID_DATA,
            f"the {name} split never ends: its source is endless",
            hint=f"Give data.{name} a source that ends.",
        )
    if training.steps_per_epoch is None and training.max_steps is None:
        raise JobFailure(
            FailureCode.INVALID_SPEC,
            "the training split never ends, so no epoch ends",
            hint="Set training.steps_per_epoch or training.max_steps, or take a number of elements.",
        )


def _check_precision(element: Any, name: str, precision: str) -> None:
    x = element[0] if isinstance(element, tuple) else element
    for path, leaf in named_leaves(x, "x"):
        if leaf.dtype == tf.float64 and precision != "float64":
            raise JobFailure(
                FailureCode.FLOAT64_INPUT,
                f"{path} of the {name} split is float64, the job trains in {precision}",
                hint=f'Add {{"op": "cast", "dtype": "float32", "field": "{path}"}} to data.pipeline, '
                "or cast in the source.",
            )


def empty(name: str) -> JobFailure:
    """The failure for a split without a single batch."""
    return JobFailure(
        FailureCode.INVALID_DATA,
        f"the {name} split is empty: its pipeline yields no batch",
        hint="Check the source, take and skip; drop_remainder drops a batch that is not full.",
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
