"""What the engine uses of TensorFlow's private modules beside what other files of this folder use: the inside of
datasets, graphs and functions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.autograph.core import ag_ctx
from tensorflow.python.data.ops.from_tensor_slices_op import _TensorSliceDataset
from tensorflow.python.data.ops.zip_op import _ZipDataset
from tensorflow.python.data.util import structure
from tensorflow.python.distribute import distribute_lib
from tensorflow.python.eager.polymorphic_function.polymorphic_function import Function
from tensorflow.python.framework.auto_control_deps_utils import get_read_only_resource_input_indices_graph
from tensorflow.python.framework.config import disable_op_determinism
from tensorflow.python.ops.resource_variable_ops import BaseResourceVariable
from tensorflow.python.util import tf_stack

__all__ = [
    "TracedFunction", "call_stack", "disable_op_determinism", "one_device", "read_only_inputs", "sliced_tensors",
    "variable_of", "without_autograph", "zipped_datasets",
]  # fmt: skip

TracedFunction = Function
"""The class of what `tf.function` returns."""


def without_autograph() -> contextlib.AbstractContextManager[Any]:
    """Inside the block nothing that is traced is converted."""
    context: contextlib.AbstractContextManager[Any] = ag_ctx.ControlStatusCtx(status=ag_ctx.Status.DISABLED)
    return context


def call_stack() -> Any:
    """The frames of this call, the innermost last; of code that AutoGraph converted, those of its source."""
    return tf_stack.extract_stack()


@contextlib.contextmanager
def one_device() -> Iterator[None]:
    """Inside the block, where replicas have met, there is no strategy: Keras' optimizers apply as on one device."""
    distribute_lib._push_per_thread_mode(distribute_lib._get_default_replica_mode())
    try:
        yield
    finally:
        distribute_lib._pop_per_thread_mode()


# ── datasets ─────────────────────────────────────────────────────────────────────────────────────


def zipped_datasets(dataset: tf.data.Dataset) -> tuple[Any, ...] | None:
    """The datasets that `tf.data.Dataset.zip` was given as a tuple; None for every other dataset."""
    if not isinstance(dataset, _ZipDataset) or not isinstance(dataset._datasets, tuple):
        return None
    datasets: tuple[Any, ...] = dataset._datasets
    return datasets


def sliced_tensors(dataset: tf.data.Dataset, size: int) -> Any:
    """The nest that `from_tensor_slices` was given, of `size` elements; None for every other dataset."""
    if not isinstance(dataset, _TensorSliceDataset):
        return None
    batched = tf.nest.map_structure(lambda spec: spec._batch(size), dataset.element_spec)
    return structure.from_tensor_list(batched, dataset._tensors)


# ── graphs ───────────────────────────────────────────────────────────────────────────────────────


def read_only_inputs(graph: Any) -> set[int]:
    """Positions of the resources among a graph's inputs that it does not change, in branches and loops neither."""
    return set(get_read_only_resource_input_indices_graph(graph))


def variable_of(handle: tf.Tensor, name: str) -> tf.Variable | None:
    """A variable for the handle of one that a graph captured; None for a table, a queue or an iterator."""
    data = getattr(handle, "_handle_data", None)
    if data is None or not data.is_set or len(data.shape_and_type) != 1:
        return None
    shape, dtype = data.shape_and_type[0].shape, data.shape_and_type[0].dtype
    variable: tf.Variable = BaseResourceVariable(
        trainable=False, shape=tf.TensorShape(shape), dtype=tf.as_dtype(dtype), handle=handle, name=name,
        handle_name=name, unique_id=name, in_graph_mode=False,
    )  # fmt: skip
    return variable
