"""The operations that make batches of elements whose shapes differ: padded, ragged, by length.

Interface: `padded_batch`, `ragged_batch`, `bucketed`, under tf.data's names and arguments
(`tapeworks.spec.pipeline_ops`), from a dataset to a dataset. Padding, and all of tf.data's own bucketing, takes dense
tensors: ragged elements are made dense for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure
from tapeworks.spec.pipeline_ops import BucketBySequenceLength, PaddedBatch
from tapeworks_workers.engine.data.fields import pick
from tapeworks_workers.engine.graph.autograph import engine_code
from tapeworks_workers.engine.graph.element_spec import map_leaves, named_leaves

Padding = PaddedBatch | BucketBySequenceLength


def padded_batch(operation: PaddedBatch, dataset: tf.data.Dataset) -> tf.data.Dataset:
    """`tf.data.Dataset.padded_batch`. Raises JobFailure `invalid_data`: a field that is not there, or is sparse."""
    dense = _dense(operation, dataset)
    return dense.padded_batch(
        operation.batch_size,
        padded_shapes=_shapes(operation, dense.element_spec),
        padding_values=_values(operation, dense.element_spec),
        drop_remainder=operation.drop_remainder,
    )


def ragged_batch(dataset: tf.data.Dataset, size: Any, *, drop_remainder: bool) -> tf.data.Dataset:
    """`tf.data.Dataset.ragged_batch`; where only ragged elements vary, `batch` makes the same three times as fast."""
    specs = tf.nest.flatten(dataset.element_spec)
    varying = any(isinstance(spec, tf.TensorSpec) and not spec.shape.is_fully_defined() for spec in specs)
    make = dataset.ragged_batch if varying else dataset.batch
    return make(size, drop_remainder=drop_remainder)


def bucketed(operation: BucketBySequenceLength, dataset: tf.data.Dataset) -> tf.data.Dataset:
    """`tf.data.Dataset.bucket_by_sequence_length`, or the same with RaggedTensors.

    Raises JobFailure `invalid_data`: a field that is not there, is sparse, or has no length.
    """

    @engine_code
    def length(*element: Any) -> tf.Tensor:
        value = pick(element, operation.length_field)
        if not isinstance(value, tf.Tensor | tf.RaggedTensor) or value.shape.rank == 0:
            raise JobFailure(
                FailureCode.INVALID_DATA,
                f"length_field {operation.length_field!r} has no length: it is {value.dtype.name} of {value.shape}",
                hint="Name a field that holds one sequence for each element.",
            )
        rows = value.nrows() if isinstance(value, tf.RaggedTensor) else tf.shape(value, tf.int64)[0]
        return tf.cast(rows, tf.int32)

    if operation.ragged:
        return _ragged_buckets(operation, dataset, length)
    dense = _dense(operation, dataset)
    return dense.bucket_by_sequence_length(
        length,
        operation.bucket_boundaries,
        operation.bucket_batch_sizes,
        padded_shapes=_shapes(operation, dense.element_spec),
        padding_values=_values(operation, dense.element_spec),
        pad_to_bucket_boundary=operation.pad_to_bucket_boundary,
        drop_remainder=operation.drop_remainder,
    )


def _ragged_buckets(operation: BucketBySequenceLength, dataset: tf.data.Dataset, length: Any) -> tf.data.Dataset:
    """tf.data buckets padded or equally long elements only."""

    @engine_code
    def bucket(*element: Any) -> tf.Tensor:
        bounds = tf.constant(operation.bucket_boundaries, tf.int32)
        return tf.searchsorted(bounds, length(*element)[None], side="right", out_type=tf.int64)[0]

    @engine_code
    def size(of_bucket: tf.Tensor) -> tf.Tensor:
        return tf.gather(tf.constant(operation.bucket_batch_sizes, tf.int64), of_bucket)

    @engine_code
    def batch(of_bucket: tf.Tensor, window: tf.data.Dataset) -> tf.data.Dataset:
        return ragged_batch(window, size(of_bucket), drop_remainder=operation.drop_remainder)

    return dataset.group_by_window(bucket, batch, window_size_func=size)


# ── padding ──────────────────────────────────────────────────────────────────────────────────────


def _dense(operation: Padding, dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The dataset with dense tensors for its ragged ones."""
    specs = dict(named_leaves(dataset.element_spec))
    sparse = [path for path, spec in specs.items() if isinstance(spec, tf.SparseTensorSpec)]
    if sparse:
        raise JobFailure(
            FailureCode.INVALID_DATA,
            f"{operation.op} cannot pad {sparse[0]}, which is sparse",
            hint='Sparse tensors of one shape are batched by {"op": "batch"}.',
        )
    _check_fields(operation, dataset.element_spec)
    if not any(isinstance(spec, tf.RaggedTensorSpec) for spec in specs.values()):
        return dataset

    @engine_code
    def convert(*element: Any) -> Any:
        def one(path: str, tensor: Any) -> Any:
            return tensor.to_tensor(_value(operation, path, tensor)) if isinstance(tensor, tf.RaggedTensor) else tensor

        return map_leaves(one, element if len(element) > 1 else element[0])

    return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _check_fields(operation: Padding, element: Any) -> None:
    known = [path for path, _ in named_leaves(element)]
    given: Mapping[str, Any] = {**operation.padded_shapes, **operation.padding_values}
    for path in given:
        if path not in known:
            raise JobFailure(
                FailureCode.INVALID_DATA, f"{operation.op}: the element has no {path!r}; it has {', '.join(known)}"
            )


def _shapes(operation: Padding, element: Any) -> Any:
    """tf.data's padded_shapes: what the operation says, else the spec's own, unknown dimensions as the longest."""

    def one(path: str, spec: Any) -> tf.TensorShape:
        given = operation.padded_shapes.get(path)
        if given is None:
            return spec.shape
        shape = tf.TensorShape(given)
        if not spec.shape.is_compatible_with(tf.TensorShape([None] * len(given))):
            raise JobFailure(
                FailureCode.INVALID_DATA, f"{operation.op}: padded_shapes of {path} is {given}, its shape {spec.shape}"
            )
        return shape

    return map_leaves(one, element)


def _values(operation: Padding, element: Any) -> Any:
    return map_leaves(lambda path, spec: _value(operation, path, spec), element)


def _value(operation: Padding, path: str, spec: Any) -> tf.Tensor:
    given = operation.padding_values.get(path)
    if given is None:
        return tf.zeros([], spec.dtype)
    try:
        return tf.cast(given, spec.dtype) if spec.dtype != tf.string else tf.constant(given, tf.string)
    except (TypeError, ValueError, tf.errors.OpError) as error:
        raise JobFailure(
            FailureCode.INVALID_DATA, f"{operation.op}: {given!r} cannot fill {path}, which is {spec.dtype.name}"
        ) from error
