"""From `data` of the spec to the datasets of a job: sources, splits, operations.

The splits are cut from the source before the pipeline, and the same operations run on each, less
those that are for training only. `Split.dataset(number)` gives the dataset of one pass.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorflow as tf

from tapeworks.authoring import Source
from tapeworks.errors import FailureCode, JobFailure, Location
from tapeworks.operations import BATCHING, training_only
from tapeworks.references import Kind, ReferenceFields
from tapeworks.spec import JobSpec, TrainingSpec
from tapeworks.spec import Split as SplitSpec
from tapeworks_workers.engine import operations, splitting
from tapeworks_workers.engine.building import build


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

    @property
    def element_spec(self) -> Any:
        """Of a training batch."""
        return self.training.element_spec


def build_data(spec: JobSpec) -> Data:
    """Build sources, splits and pipelines. Raises JobFailure, and whatever a source raises."""
    source = build(spec.data.source, Kind.SOURCE, pointer="/data/source")
    sources = {"training": _lineage(source, spec.data.source)}
    raw: dict[str, tf.data.Dataset | None] = {"validation": None, "test": None}
    batched = {name: source.batched for name in ("training", *raw)}
    fractions: dict[str, SplitSpec] = {}
    for name, given in (("validation", spec.data.validation), ("test", spec.data.test)):
        if isinstance(given, SplitSpec):
            fractions[name] = given
        elif isinstance(given, ReferenceFields):
            own = build(given, Kind.SOURCE, pointer=f"/data/{name}")
            sources[name] = _lineage(own, given)
            raw[name], batched[name] = _dataset(own, given), own.batched
    raw |= splitting.split(_dataset(source, spec.data.source), fractions, seed=spec.training.seed)
    splits = {
        name: _pipeline(spec, name, dataset, batched=batched[name])
        for name, dataset in raw.items()
        if dataset is not None
    }

    def plain() -> tf.data.Dataset:
        training = _pipeline(spec, "training", raw["training"], batched=batched["training"], plain=True)
        return training.dataset(0)

    return Data(splits["training"], splits.get("validation"), splits.get("test"), sources, plain)


def _dataset(source: Source, reference: ReferenceFields) -> tf.data.Dataset:
    dataset = source.dataset()
    if not isinstance(dataset, tf.data.Dataset):
        raise JobFailure(
            FailureCode.COMPONENT_ERROR,
            f"source {reference.component!r}: dataset() must return a tf.data.Dataset, not {type(dataset).__name__}",
            location=Location(component=reference.component),
        )
    return dataset


def _pipeline(spec: JobSpec, name: str, raw: tf.data.Dataset, *, batched: bool, plain: bool = False) -> Split:
    training = spec.training
    applied = [
        operations.prepare(operation, index=index, seed=training.seed, deterministic=training.deterministic)
        for index, operation in enumerate(spec.data.pipeline)
        if (name == "training" and not plain) or not training_only(operation)
    ]
    if not batched and not any(item.operation.op in BATCHING for item in applied):
        raise JobFailure(
            FailureCode.INVALID_SPEC,
            f"the {name} split is never batched",
            hint='Add {"op": "batch", "batch_size": 32} to data.pipeline.',
        )
    fixed, varying = _parted(applied)
    base = functools.reduce(lambda dataset, item: item.apply(dataset, 0), fixed, raw)
    prefetched = any(item.operation.op == "prefetch" for item in applied)
    # Where no operation runs in parallel there is nothing to tune, and the thread that would do it costs every pass
    # 20 ms at its end: as much as 30 small steps. Prefetch sizes its own buffer then.
    options = tf.data.Options()
    options.autotune.enabled = any(item.operation.op in operations.PARALLEL for item in applied)

    def dataset(number: int) -> tf.data.Dataset:
        result = functools.reduce(lambda dataset, item: item.apply(dataset, number), varying, base)
        return (result if prefetched else result.prefetch(operations.AUTOTUNE)).with_options(options)

    first = dataset(0)
    size = int(first.cardinality())
    if size == 0:
        raise empty(name)
    if size == tf.data.INFINITE_CARDINALITY:
        _check_end(name, training)
    _check_precision(first.element_spec, name, training.precision)
    return Split(
        name=name,
        element_spec=tf.nest.map_structure(lambda leaf: relaxed(leaf, name), first.element_spec),
        steps=size if size > 0 else None,
        dataset=dataset,
    )


def _parted(applied: list[operations.Applied]) -> tuple[list[operations.Applied], list[operations.Applied]]:
    """Operations built once, and those from the first that varies by pass on.

    What stands before a cache is frozen by it, as in tf.data, and the cache must outlive a pass.
    """
    last_cache = max((i for i, item in enumerate(applied) if item.operation.op == "cache"), default=-1)
    for index, item in enumerate(applied):
        if item.varies and index > last_cache:
            return applied[:index], applied[index:]
    return applied, []


def relaxed(spec: Any, name: str) -> Any:
    """A batch's spec with its batch dimension unknown, so that a short last batch is no new shape."""
    if not isinstance(spec, tf.TensorSpec | tf.RaggedTensorSpec | tf.SparseTensorSpec):
        raise JobFailure(FailureCode.INVALID_DATA, f"the {name} split holds {spec}, which cannot be trained on")
    if spec.shape.rank is None:
        return spec
    if spec.shape.rank == 0:
        raise JobFailure(FailureCode.INVALID_DATA, f"the {name} split holds scalars where batches should be: {spec}")
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
            "the training split never ends, so no epoch would",
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


def named_leaves(nest: Any, path: str) -> list[tuple[str, Any]]:
    """The leaves of a nest with their field paths."""
    if isinstance(nest, Mapping):
        return [leaf for key in nest for leaf in named_leaves(nest[key], f"{path}.{key}")]
    if isinstance(nest, tuple | list):
        return [leaf for index, item in enumerate(nest) for leaf in named_leaves(item, f"{path}.{index}")]
    return [(path, nest)]


def empty(name: str) -> JobFailure:
    """The failure for a split without a single batch."""
    return JobFailure(
        FailureCode.INVALID_DATA,
        f"the {name} split is empty: not one batch comes out of its pipeline",
        hint="Check the source, take and skip; drop_remainder drops a batch that is not full.",
    )


def _lineage(source: Source, reference: ReferenceFields) -> dict[str, Any]:
    files = [{"name": file.name, "bytes": file.stat().st_size, "sha256": _sha256(file)} for file in source.files()]
    return {"component": reference.component, "version": reference.version, "files": files}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
