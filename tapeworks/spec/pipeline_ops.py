"""The operations of `data.pipeline`, under tf.data's own names and arguments.

Each is one small model; the worker applies them in order to every split. `training_only` marks
an operation that the validation and test splits leave out; `shuffle` and `repeat` always do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tapeworks.bounds import BatchSize, BufferSize, Count, CountOrNone, OperationSeed, Scalar, Size
from tapeworks.spec.references import Kind, Reference

DType = Literal[
    "float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64", "bool", "string",
]  # fmt: skip

FieldPath = Annotated[str, Field(pattern=r"^(x|y|sample_weight)(\..+)?$", max_length=1000)]
"""A path into the element: `x`, `x.age`, `y`, `sample_weight`. A name may hold dots and spaces: `x.Sepal.Length`."""


class OperationBase(BaseModel):
    """What every operation has in common."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    training_only: bool = False
    """Leave the operation out of the validation and test splits."""


class Shuffle(OperationBase):
    """`tf.data.Dataset.shuffle`, reshuffled each epoch; only ever on the training split."""

    op: Literal["shuffle"]
    buffer_size: BufferSize
    seed: OperationSeed | None = None
    """Default: derived from `training.seed`."""


class Batch(OperationBase):
    """`tf.data.Dataset.batch`; ragged and sparse elements become ragged and sparse batches."""

    op: Literal["batch"]
    batch_size: BatchSize
    drop_remainder: bool = False


class PaddingFields(OperationBase):
    """How elements of unequal shapes are filled up; ragged elements are made dense for it."""

    padded_shapes: dict[FieldPath, list[Size | None]] = Field(default_factory=dict)
    """Field → the shape that its elements get; null, and fields that are not named: as long as the longest."""
    padding_values: dict[FieldPath, Scalar] = Field(default_factory=dict)
    """Field → what fills it up. Default: 0, false, or the empty string."""


class PaddedBatch(PaddingFields):
    """Pads elements to one shape and batches them, as `tf.data.Dataset.padded_batch`."""

    op: Literal["padded_batch"]
    batch_size: BatchSize
    drop_remainder: bool = False


class RaggedBatch(OperationBase):
    """`tf.data.Dataset.ragged_batch`: tensors whose shapes are not fully known become RaggedTensors."""

    op: Literal["ragged_batch"]
    batch_size: BatchSize
    drop_remainder: bool = False


class BucketBySequenceLength(PaddingFields):
    """`tf.data.Dataset.bucket_by_sequence_length`: elements of similar length share a batch, padded or ragged.

    `bucket_boundaries` [10, 20] makes three buckets, of lengths below 10, below 20, and the rest.
    """

    op: Literal["bucket_by_sequence_length"]
    bucket_boundaries: list[Size] = Field(min_length=1)
    bucket_batch_sizes: list[BatchSize]
    """One for each bucket: one more than there are boundaries."""
    length_field: FieldPath = "x"
    """The field whose first dimension is the length."""
    ragged: bool = False
    """RaggedTensors instead of padding."""
    pad_to_bucket_boundary: bool = False
    """Pad to the bucket's boundary less 1; an element of the last bucket then fails the job."""
    drop_remainder: bool = False

    @model_validator(mode="after")
    def _agree(self) -> Self:
        bounds = self.bucket_boundaries
        if any(later <= earlier for earlier, later in pairwise(bounds)):
            raise ValueError(f"bucket_boundaries must increase, got {bounds}")
        if len(self.bucket_batch_sizes) != len(bounds) + 1:
            raise ValueError(
                f"{len(bounds)} bucket_boundaries make {len(bounds) + 1} buckets, "
                f"and bucket_batch_sizes has {len(self.bucket_batch_sizes)}: give one for each"
            )
        if self.ragged and (self.pad_to_bucket_boundary or self.padded_shapes or self.padding_values):
            raise ValueError("ragged batches are not padded: remove the padding options or ragged")
        return self


class Unbatch(OperationBase):
    """`tf.data.Dataset.unbatch`: the elements of batches."""

    op: Literal["unbatch"]


class Rebatch(OperationBase):
    """`tf.data.Dataset.rebatch`: batches of another size."""

    op: Literal["rebatch"]
    batch_size: BatchSize
    drop_remainder: bool = False


class Map(OperationBase):
    """`tf.data.Dataset.map` with a registered transform, on the whole element or one field of it."""

    op: Literal["map"]
    function: Reference
    field: FieldPath | None = None


class Cast(OperationBase):
    """`tf.cast` of one field of the element (default `x`, every tensor below it)."""

    op: Literal["cast"]
    dtype: DType
    field: FieldPath = "x"


class Filter(OperationBase):
    """`tf.data.Dataset.filter`: keep the elements for which a transform returns true, of the element or one field."""

    op: Literal["filter"]
    function: Reference
    field: FieldPath | None = None


class DropMissing(OperationBase):
    """Keep the elements that have a value in each of these fields: no NaN in numbers, no empty text."""

    op: Literal["drop_missing"]
    fields: list[FieldPath] | None = Field(default=None, min_length=1)
    """Default: all of the element. A field that is a dict is every tensor below it."""


class Apply(OperationBase):
    """`tf.data.Dataset.apply`: a registered function from a dataset to a dataset (windows, balancing)."""

    op: Literal["apply"]
    function: Reference


class OneHot(OperationBase):
    """`tf.one_hot` of one field: integers of any shape get a last dimension `depth`."""

    op: Literal["one_hot"]
    depth: Size
    field: FieldPath = "y"
    dtype: DType = "float32"
    sparse: bool = False
    """A SparseTensor: the zeros are never made. Several ids side by side are several ones in their rows."""
    outside: Literal["error", "zeros"] = "error"
    """Of an id below 0 or of `depth` and more: the job ends as `invalid_data`, or it has no one."""


class ToSparse(OperationBase):
    """`tf.sparse.from_dense` of one field (default `x`, every tensor below it); ragged ones too."""

    op: Literal["to_sparse"]
    field: FieldPath = "x"


class ToRagged(OperationBase):
    """`tf.RaggedTensor.from_tensor` of one field of a batch (default `x`); sparse ones too."""

    op: Literal["to_ragged"]
    field: FieldPath = "x"
    padding: Scalar | None = None
    """What trails in a row and is cut off; null: rows keep their length. Sparse tensors have no padding."""


class Cache(OperationBase):
    """`tf.data.Dataset.cache` in memory."""

    op: Literal["cache"]


class Repeat(OperationBase):
    """`tf.data.Dataset.repeat`; without a count it is endless. Only ever on the training split."""

    op: Literal["repeat"]
    count: Count | None = None


class Take(OperationBase):
    """Keeps the first elements, as `tf.data.Dataset.take`."""

    op: Literal["take"]
    count: Count


class Skip(OperationBase):
    """Skips the first elements, as `tf.data.Dataset.skip`."""

    op: Literal["skip"]
    count: CountOrNone


class Prefetch(OperationBase):
    """`tf.data.Dataset.prefetch`; appended with AUTOTUNE where a pipeline has none."""

    op: Literal["prefetch"]
    buffer_size: BufferSize | None = None
    """None: `tf.data.AUTOTUNE`."""


Operation = Annotated[
    Shuffle | Batch | PaddedBatch | RaggedBatch | BucketBySequenceLength | Unbatch | Rebatch
    | Map | Filter | DropMissing | Apply | Cast | OneHot | ToSparse | ToRagged
    | Cache | Repeat | Take | Skip | Prefetch,
    Field(discriminator="op"),
]  # fmt: skip

BATCHING = frozenset({"batch", "padded_batch", "ragged_batch", "bucket_by_sequence_length"})
"""Operations after which an element is a batch."""


class SourceBranch(BaseModel):
    """A source with operations of its own, inside a source of sources."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    source: Reference
    pipeline: list[Operation] = Field(default_factory=list, max_length=100)


def branch_of(value: Any) -> Any:
    """What the config of a source of sources holds, as `SourceBranch` takes it: a bare reference has no pipeline."""
    return {"source": value} if isinstance(value, dict) and "component" in value else value


def training_only(operation: Any) -> bool:
    """Whether the operation is left out of the validation and test splits."""
    return operation.training_only or operation.op in ("shuffle", "repeat")


@dataclass(frozen=True)
class Batching:
    """What a pipeline does to the shape of its elements."""

    batched: bool
    """Whether batches come out."""
    misplaced: int | None
    """The first operation that takes batches and meets single elements, or the reverse, by its index."""
    meets: str = "single elements"
    """What that one meets."""

    @property
    def reason(self) -> str:
        """What follows the name of the misplaced operation in a message."""
        other = "batches" if self.meets == "single elements" else "single elements"
        return f"meets {self.meets}: it takes {other}"

    @property
    def hint(self) -> str:
        """The suggested fix."""
        return f"Put it {'after' if self.meets == 'single elements' else 'before'} a batching operation."


def batching(operations: Sequence[Any], batched: bool, batches: Callable[[Any], bool]) -> Batching:
    """Follow a pipeline over elements that are batches or not; `batches` tells whether an `apply` makes them."""
    misplaced, meets = None, "single elements"
    for index, operation in enumerate(operations):
        if misplaced is None and operation.op in ("rebatch", "unbatch") and not batched:
            misplaced = index
        if misplaced is None and operation.op == "drop_missing" and batched:
            misplaced, meets = index, "batches"
        if operation.op in BATCHING or (operation.op == "apply" and batches(operation)):
            batched = True
        elif operation.op == "unbatch":
            batched = False
    return Batching(batched, misplaced, meets)


def function_kind(operation: str) -> Kind:
    """The kind of component that an operation's `function` is."""
    return Kind.DATASET_FUNCTION if operation == "apply" else Kind.TRANSFORM
