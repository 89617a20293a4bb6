"""The operations of `data.pipeline`, under tf.data's own names and arguments.

Each is one small model; the worker applies them in order to every split. `training_only` marks
an operation that the validation and test splits leave out; `shuffle` and `repeat` always do.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from tapeworks.references import Reference

DType = Literal[
    "float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64", "bool", "string",
]  # fmt: skip

FieldPath = Annotated[str, Field(pattern=r"^(x|y|sample_weight)(\.[^.\s]+)*$")]
"""A path into the element: `x`, `x.age`, `y`, `sample_weight`."""


class OperationBase(BaseModel):
    """What every operation has in common."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    training_only: bool = False
    """Leave the operation out of the validation and test splits."""


class Shuffle(OperationBase):
    """`tf.data.Dataset.shuffle`, reshuffled each epoch; only ever on the training split."""

    op: Literal["shuffle"]
    buffer_size: PositiveInt
    seed: int | None = None
    """Default: derived from `training.seed`."""


class Batch(OperationBase):
    """`tf.data.Dataset.batch`."""

    op: Literal["batch"]
    batch_size: PositiveInt
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


class Cache(OperationBase):
    """`tf.data.Dataset.cache` in memory."""

    op: Literal["cache"]


class Repeat(OperationBase):
    """`tf.data.Dataset.repeat`; without a count it is endless. Only ever on the training split."""

    op: Literal["repeat"]
    count: PositiveInt | None = None


class Take(OperationBase):
    """`tf.data.Dataset.take`."""

    op: Literal["take"]
    count: PositiveInt


class Skip(OperationBase):
    """`tf.data.Dataset.skip`."""

    op: Literal["skip"]
    count: Annotated[int, Field(ge=0)]


class Prefetch(OperationBase):
    """`tf.data.Dataset.prefetch`; appended with AUTOTUNE where a pipeline has none."""

    op: Literal["prefetch"]
    buffer_size: PositiveInt | None = None
    """None: `tf.data.AUTOTUNE`."""


Operation = Annotated[Shuffle | Batch | Map | Cast | Cache | Repeat | Take | Skip | Prefetch, Field(discriminator="op")]

BATCHING = frozenset({"batch"})
"""Operations after which an element is a batch."""

PLANNED_OPERATIONS = frozenset(
    {
        "padded_batch", "ragged_batch", "bucket_by_sequence_length", "filter", "apply", "one_hot",
        "to_sparse", "to_ragged", "rebatch", "unbatch",
    }
)  # fmt: skip
"""Named by the contract, answered with `not_supported` by this version."""


def training_only(operation: Any) -> bool:
    """Whether the operation is left out of the validation and test splits."""
    return operation.training_only or operation.op in ("shuffle", "repeat")
