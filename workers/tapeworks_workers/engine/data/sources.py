"""Where a job's elements come from: a source, or a source of sources with a pipeline on each of its branches.

Interface: `open_source(reference, …)` builds a tree of sources; `SourceNode.split(fractions)` cuts it and gives, for
each split, a `SplitSource`: its dataset pass by pass. Fractions are cut from each source itself, before any pipeline,
so the splits of unpaired sources never share an element, however they are combined afterwards.

`apply_pipeline` runs a pipeline over a Raw: what does not vary from pass to pass is built once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf
from pydantic import ValidationError

from tapeworks.components.interfaces import Source, SourceOfSources
from tapeworks.errors import FailureCode, JobFailure, Location
from tapeworks.spec.pipeline_ops import SourceBranch, batching, branch_of, training_only
from tapeworks.spec.references import Kind, ReferenceFields, escape
from tapeworks.spec.splits import Split as SplitSpec
from tapeworks_workers.components.sources import row_blocks
from tapeworks_workers.engine.data import file_series, in_memory, operations
from tapeworks_workers.engine.data.checks import element_order
from tapeworks_workers.engine.data.checks.element_order import Disorder
from tapeworks_workers.engine.data.checks.resume_warnings import Remarks
from tapeworks_workers.engine.data.file_series import FileSeries
from tapeworks_workers.engine.data.in_memory import Rows
from tapeworks_workers.engine.data.pipeline_context import PipelineContext
from tapeworks_workers.engine.data.splitting import splits
from tapeworks_workers.engine.factory.factory import build
from tapeworks_workers.engine.graph import dataset_state, stateless_random
from tapeworks_workers.engine.graph.randomness import derive_seed

TRAINING = "training"


@dataclass(frozen=True)
class SplitSource:
    """What one split holds before a pipeline."""

    dataset: Callable[[int], tf.data.Dataset]
    """The dataset of pass 0, 1, …"""
    batched: bool
    varies: bool = False
    """Whether it differs from pass to pass."""
    stream: Callable[[int], tf.data.Dataset] | None = None
    """The batches from a number on, pass after pass without end, where each is a function of its number."""
    rows: Rows | None = None
    """What the batches are gathered from, where nothing else is done to them."""
    disorder: Disorder | None = None
    """What changed the order of the source's elements; None where nothing did."""
    series: FileSeries | None = None
    """The files that the elements are of; None after a pipeline."""
    missing_labels: bool = False
    """Whether y is -1 where a row has no label."""


@dataclass(frozen=True)
class SourceNode:
    """A source, built."""

    reference: ReferenceFields
    source: Source
    setting: PipelineContext
    pointer: str = "/data/source"

    def split(self, fractions: Mapping[str, SplitSpec], rest: str = TRAINING) -> dict[str, SplitSource]:
        """Each split named, and the `rest`. Raises JobFailure `invalid_data` where one would be empty."""
        dataset = self._dataset(0)
        if "/" in self.reference.component and (raw := self._examined(dataset, fractions)) is not None:
            return {rest: raw}
        cut = splits.split(dataset, fractions, seed=self.setting.seed, column=self.source.column)
        self.setting.notes.extend(("split_size", note) for note in cut.notes)
        raws = {
            name: SplitSource(
                functools.partial(_always, one), self.source.batched, disorder=cut.disorder,
                series=self._series(cut, name), missing_labels=self.source.missing_labels,
            )
            for name, one in cut.datasets.items()
        }  # fmt: skip
        return {rest if name == TRAINING else name: one for name, one in raws.items()}

    def _series(self, cut: splits.Cut, name: str) -> FileSeries:
        """The files of a split."""
        rows = self.source.rows_by_file()
        if rows is None or (cut.indices is None and len(cut.datasets) > 1):
            return FileSeries(len(rows or self.source.files()), None)
        indices = None if cut.indices is None else cut.indices[name]
        return FileSeries(len(rows), functools.partial(file_series.of_split, rows, indices))

    def _dataset(self, number: int) -> tf.data.Dataset:
        """The source's dataset, built for a pass. Raises JobFailure `component_error`."""
        with stateless_random.seeded(derive_seed(self.setting.seed, "source", self.pointer), number):
            dataset = self.source.dataset()
        if not isinstance(dataset, tf.data.Dataset):
            raise _wrong(self.reference, "dataset()", dataset)
        return dataset

    def _examined(self, dataset: tf.data.Dataset, fractions: Mapping[str, SplitSpec]) -> SplitSource | None:
        """The split of a source that shuffles anew in each pass; None for every other.

        With a fixed seed a deterministic job builds it anew for each pass, so that pass 7 is the same in every
        attempt. Raises JobFailure `invalid_data` where a fraction is to be set aside: elements would change sides.
        """
        component = self.reference.component
        if dataset_state.reshuffles(dataset) and fractions:
            raise JobFailure(
                FailureCode.INVALID_DATA,
                f"source {component!r} shuffles again in each pass, so data.{next(iter(fractions))} cannot be a "
                "fraction of it: elements would move between the splits",
                hint='Return the elements in a fixed order and put {"op": "shuffle", "buffer_size": 1000} into '
                "data.pipeline, or pass reshuffle_each_iteration=False and a seed to shuffle().",
                location=Location(component=component),
            )
        found = dataset_state.find(dataset)
        anew = self.setting.deterministic and dataset_state.reshuffles(dataset) and not dataset_state.caches(dataset)
        kept = [one for one in found if not (anew and one.kind == "shuffle")]
        self.setting.remarks.add(kept, place=self.pointer, component=component)
        if not anew:
            return None
        return SplitSource(
            lambda number: self._dataset(number) if number else dataset, self.source.batched, varies=True
        )

    def named_sources(self) -> Iterator[tuple[str, Source]]:
        """The component and the source that reads data."""
        yield self.reference.component, self.source


@dataclass(frozen=True)
class BranchNode:
    """A source of sources, built with its branches."""

    reference: ReferenceFields
    source: SourceOfSources
    setting: PipelineContext
    branches: dict[str, tuple[SourceNode | BranchNode, SourceBranch, str]]
    """Name (or position) → the branch's source, its operations, and the pointer to these."""

    def split(self, fractions: Mapping[str, SplitSpec], rest: str = TRAINING) -> dict[str, SplitSource]:
        """See `SourceNode.split`; each branch is cut by itself. Raises JobFailure for splits that need all of them."""
        self._check(fractions)
        parts: dict[str, dict[str, SplitSource]] = {}
        for name, (origin, branch, pointer) in self.branches.items():
            for split, raw in origin.split(fractions, rest).items():
                setting = self.setting.below(name)
                parts.setdefault(split, {})[name] = apply_pipeline(
                    raw, branch.pipeline, split=split, setting=setting, pointer=f"{pointer}/pipeline"
                )
        return {split: self._combined(of_split) for split, of_split in parts.items()}

    def _check(self, fractions: Mapping[str, SplitSpec]) -> None:
        for name, one in fractions.items():
            if len(self.branches) > 1 and (one.group is not None or one.split == "time"):
                how = "by group" if one.group is not None else "by time"
                raise JobFailure(
                    FailureCode.INVALID_SPEC,
                    f"data.{name}: a split {how} cuts one source, and {self.reference.component!r} has "
                    f"{len(self.branches)}, each of which would be cut by itself",
                    hint=f"Give data.{name} a source of its own.",
                    location=Location(component=self.reference.component),
                )

    def _combined(self, parts: dict[str, SplitSource]) -> SplitSource:
        batched = {raw.batched for raw in parts.values()}
        if len(batched) > 1:
            single = next(name for name, raw in parts.items() if not raw.batched)
            raise JobFailure(
                FailureCode.INVALID_SPEC,
                f"source {self.reference.component!r}: some branches give batches, {single!r} single elements",
                hint="Batch in every branch, or only in data.pipeline.",
                location=Location(component=self.reference.component),
            )
        named = isinstance(self.source.sources, Mapping)

        def dataset(number: int) -> tf.data.Dataset:
            made = {name: raw.dataset(number) for name, raw in parts.items()}
            seed = derive_seed(self.setting.seed, "combine", number)
            with stateless_random.seeded(seed):
                result = self.source.combine(made if named else list(made.values()), seed)
            if not isinstance(result, tf.data.Dataset):
                raise _wrong(self.reference, "combine()", result)
            return result

        own = element_order.lost_by_source(self.reference.component, self.source)
        lost = [one for one in (own, *(raw.disorder for raw in parts.values())) if one is not None]
        missing = any(raw.missing_labels for raw in parts.values())
        disorder = lost[0] if lost else None
        return SplitSource(dataset, batched.pop(), varies=True, disorder=disorder, missing_labels=missing)

    def named_sources(self) -> Iterator[tuple[str, Source]]:
        """The components and the sources that read data."""
        for origin, _, _ in self.branches.values():
            yield from origin.named_sources()


def _always(dataset: tf.data.Dataset, number: int) -> tf.data.Dataset:
    return dataset


def open_source(
    reference: ReferenceFields, setting: PipelineContext, *, pointer: str, files: list[str] | None = None
) -> SourceNode | BranchNode:
    """Build a source, and those inside it. Raises JobFailure, and whatever a source raises.

    `files`: the local paths that it reads, instead of those that its config names.
    """
    with stateless_random.seeded(derive_seed(setting.seed, "source", pointer, "config")):
        own = None if files is None else {"files": files}
        source = build(reference, Kind.SOURCE, pointer=pointer, files=own, context=setting.build)
    if not isinstance(source, SourceOfSources):
        return SourceNode(reference, source, setting, pointer)
    given = source.sources
    branches = dict(given) if isinstance(given, Mapping) else {str(index): one for index, one in enumerate(given)}
    if not branches:
        raise _refused(f"{pointer}/config/sources", "sources is empty", reference)
    return BranchNode(
        reference,
        source,
        setting,
        {
            name: _branch(value, setting.below(name), reference, pointer=f"{pointer}/config/sources/{escape(name)}")
            for name, value in branches.items()
        },
    )


def _branch(
    value: Any, setting: PipelineContext, owner: ReferenceFields, *, pointer: str
) -> tuple[SourceNode | BranchNode, SourceBranch, str]:
    try:
        branch = SourceBranch.model_validate(branch_of(value))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "".join(f"/{escape(str(step))}" for step in first["loc"])
        raise _refused(pointer + place, str(first["msg"]), owner) from error
    at = f"{pointer}/source" if "source" in value else pointer
    return open_source(branch.source, setting, pointer=at), branch, pointer


def _refused(pointer: str, message: str, reference: ReferenceFields) -> JobFailure:
    return JobFailure(
        FailureCode.INVALID_SPEC, f"{pointer}: {message}", location=Location(component=reference.component)
    )


def _wrong(reference: ReferenceFields, what: str, given: Any) -> JobFailure:
    return JobFailure(
        FailureCode.COMPONENT_ERROR,
        f"source {reference.component!r}: {what} must return a tf.data.Dataset, not {type(given).__name__}",
        location=Location(component=reference.component),
    )


# ── pipelines ────────────────────────────────────────────────────────────────────────────────────


def apply_pipeline(
    raw: SplitSource, pipeline: list[Any], *, split: str, setting: PipelineContext, pointer: str
) -> SplitSource:
    """A pipeline over one split, less what is for training only where it is another. Raises JobFailure."""
    chosen = {
        index: operation
        for index, operation in enumerate(pipeline)
        if split == TRAINING or not training_only(operation)
    }
    setting = replace(setting, missing_labels=raw.missing_labels)
    applied = _prepared(chosen, setting, pointer)
    if (last := element_order.last_needing(applied)) is not None:
        ordered = replace(setting, deterministic=True)  # else parallel calls of `map` end in any order
        applied = [*_prepared(dict(list(chosen.items())[:last]), ordered, pointer), *applied[last:]]
    lost = element_order.check(applied, raw.disorder, split=split, pointer=pointer)
    applied = file_series.bound(applied, raw.series, pointer=pointer, notes=setting.notes)
    found = _apply_pipeline(raw, applied, split=split, setting=setting, pointer=pointer)
    return replace(found, disorder=lost, missing_labels=raw.missing_labels)


def _prepared(chosen: Mapping[int, Any], setting: PipelineContext, pointer: str) -> list[operations.PreparedOp]:
    return [
        operations.prepare(
            operation,
            index=index,
            seed=setting.seed,
            deterministic=setting.deterministic,
            build_context=setting.build,
            pointer=pointer,
            missing_labels=setting.missing_labels,
        )
        for index, operation in chosen.items()
    ]


def _apply_pipeline(
    raw: SplitSource, applied: list[operations.PreparedOp], *, split: str, setting: PipelineContext, pointer: str
) -> SplitSource:
    makes_batches = {id(item.operation) for item in applied if item.batches}
    check = batching([item.operation for item in applied], raw.batched, lambda one: id(one) in makes_batches)
    if check.misplaced is not None:
        operation = applied[check.misplaced].operation
        raise JobFailure(
            FailureCode.INVALID_SPEC,
            f"{pointer}: in the {split} split {operation.op} {check.reason}",
            hint=check.hint,
        )
    if not raw.varies and (found := in_memory.find(raw.dataset(0), applied)) is not None:
        return _gathered(found[0], applied[found[1] :], setting.remarks)
    raw, applied = _examined(*_of_blocks(raw, applied), setting.remarks)
    return _continued(raw, applied, batched=check.batched)


def _of_blocks(
    raw: SplitSource, applied: list[operations.PreparedOp]
) -> tuple[SplitSource, list[operations.PreparedOp]]:
    """A first batching operation as part of the Raw, where batches can be cut from blocks of rows."""
    first = applied[0].operation if applied else None
    if raw.varies or first is None or first.op not in ("batch", "ragged_batch"):
        return raw, applied
    made = row_blocks.batched(raw.dataset(0), first.batch_size, drop_remainder=first.drop_remainder)
    return (raw, applied) if made is None else (replace(raw, dataset=lambda number: made, batched=True), applied[1:])


def _gathered(rows: Rows, rest: list[operations.PreparedOp], remarks: Remarks) -> SplitSource:
    """Batches of rows in memory, and the operations on batches."""
    raw = SplitSource(rows.of_pass, batched=True, varies=rows.seed is not None)
    raw, rest = _examined(raw, rest, remarks)
    whole = _continued(raw, rest, batched=True)
    if not all(item.of_each for item in rest):
        return whole
    pure = all(item.operation.op == "prefetch" for item in rest)
    return replace(whole, stream=lambda number: _applied(rest, rows.stream(number), 0), rows=rows if pure else None)


def _examined(
    raw: SplitSource, applied: list[operations.PreparedOp], remarks: Remarks
) -> tuple[SplitSource, list[operations.PreparedOp]]:
    """The operations as they are once a trace has shown what users' functions do, and the Raw that they were tried on.

    What was built for it is the first pass, so nothing is traced twice that keeps no state.
    """
    last = max((index for index, item in enumerate(applied) if operations.is_own(item.operation)), default=-1)
    if last < 0:
        return raw, applied
    first = dataset = raw.dataset(0)
    known = []
    for item in applied[: last + 1]:
        settled = item.examine(dataset) if item.examine is not None else item
        made = settled.apply(dataset, 0)
        if operations.is_own(item.operation):
            found = dataset_state.find(made, until=dataset)
            kept = [one for one in found if not (settled.varies and one.kind == "shuffle")]
            remarks.add(kept, place=item.place, component=item.operation.function.component)
        known.append(settled.known(dataset, made))
        dataset = made
    return replace(raw, dataset=lambda number: raw.dataset(number) if number else first), [*known, *applied[last + 1 :]]


def _continued(raw: SplitSource, applied: list[operations.PreparedOp], *, batched: bool) -> SplitSource:
    """A pipeline over a Raw: what does not vary is built once."""
    fixed, varying = _parted(applied, varies=raw.varies)
    if not varying and not raw.varies:
        made = functools.cache(lambda: _applied(fixed, raw.dataset(0), 0))
        return SplitSource(lambda number: made(), batched)
    if not fixed:
        return SplitSource(lambda number: _applied(varying, raw.dataset(number), number), batched, varies=True)
    base = functools.cache(lambda: _applied(fixed, raw.dataset(0), 0))
    return SplitSource(lambda number: _applied(varying, base(), number), batched, varies=bool(varying))


def _applied(items: list[operations.PreparedOp], dataset: tf.data.Dataset, number: int) -> tf.data.Dataset:
    return functools.reduce(lambda given, item: item.apply(given, number), items, dataset)


def _parted(
    applied: list[operations.PreparedOp], *, varies: bool
) -> tuple[list[operations.PreparedOp], list[operations.PreparedOp]]:
    """Operations built once, and those from the first that varies by pass on.

    What stands before a cache is frozen by it, as in tf.data, and the cache must outlive a pass.
    """
    last_cache = max((i for i, item in enumerate(applied) if item.operation.op == "cache"), default=-1)
    if varies and last_cache < 0:
        return [], applied
    for index, item in enumerate(applied):
        if item.varies and index > last_cache:
            return applied[:index], applied[index:]
    return applied, []
