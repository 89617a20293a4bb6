"""A tf.data.Dataset read into arrays, where one pass over it says all that it will ever give.

The chain of operations decides: slices of arrays, batches, caches, prefetching, shuffling and maps without random or
other stateful operations. Anything else raises ComponentError with its name.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from tapeworks.errors import ComponentError
from tapeworks.keras.references import keras

MAX_BYTES = 2 << 30
_SAME_EACH_PASS = frozenset({"TensorSlice", "Tensor", "Batch", "ParallelBatch", "Cache", "Prefetch", "Options", "Range",
                             "Map", "ParallelMap", "Shuffle", "Zip"})  # fmt: skip


def is_dataset(value: Any) -> bool:
    """Whether it is a tf.data.Dataset; TensorFlow is not imported for that."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(value, tensorflow.data.Dataset)


def arrays_of_dataset(dataset: Any) -> tuple[tuple[Any, Any, Any], int, bool]:
    """((x, y, sample_weight), batch size, whether it shuffles). Raises ComponentError where it cannot be rebuilt."""
    chain = list(_chain(dataset))
    kinds = [_kind(one) for one in chain]
    problems = [kind for kind in kinds if kind not in _SAME_EACH_PASS]
    problems += [f"{_kind(one)} with random operations" for one in chain if _is_stateful(one)]
    if problems:
        raise ComponentError(
            f"x is a tf.data.Dataset with {', '.join(dict.fromkeys(problems))}, of which one pass does not show what "
            "the next gives: give the arrays, put augmentation into layers of the model, or write the operations as "
            "the pipeline of a spec"
        )
    if not any(kind in ("Batch", "ParallelBatch") for kind in kinds):
        raise ComponentError("x is a tf.data.Dataset without a batch operation: call dataset.batch(…), as fit needs it")
    batches, batch_size = _read(dataset)
    joined = keras().tree.map_structure(_joined, *batches)
    parts = joined if isinstance(joined, tuple) else (joined,)
    x, y, weight = (*parts, None, None, None)[:3]
    return (x, y, weight), batch_size, "Shuffle" in kinds


def _chain(dataset: Any) -> Iterator[Any]:
    yield dataset
    for below in dataset._inputs():
        yield from _chain(below)


def _kind(dataset: Any) -> str:
    return type(dataset).__name__.strip("_").removesuffix("V2").removesuffix("V1").removesuffix("Dataset")


def _is_stateful(dataset: Any) -> bool:
    function = getattr(getattr(dataset, "_map_func", None), "function", None)
    if function is None:
        return False
    return any(operation.op_def.is_stateful for operation in function.graph.get_operations())


def _read(dataset: Any) -> tuple[list[Any], int]:
    tree, batches, total, size = keras().tree, list[Any](), 0, 0
    for batch in dataset:
        ragged = [one for one in tree.flatten(batch) if not hasattr(one, "numpy") or hasattr(one, "row_lengths")]
        if ragged:
            raise ComponentError("x is a tf.data.Dataset of ragged or sparse tensors: push the data as files")
        arrays = tree.map_structure(lambda one: one.numpy(), batch)
        total += sum(one.nbytes for one in tree.flatten(arrays))
        if total > MAX_BYTES:
            raise ComponentError(f"x is a tf.data.Dataset of more than {MAX_BYTES >> 30} GiB: push the data as files")
        size = size or len(tree.flatten(arrays)[0])
        batches.append(arrays)
    if not batches:
        raise ComponentError("x is a tf.data.Dataset without elements")
    return batches, size


def _joined(*parts: Any) -> Any:
    import numpy as np

    return np.concatenate(parts)
