"""Files by their parts: what the sources of rows share.

Small files are read at once, and their rows lie in memory: batches are gathered from them. Larger ones are a stream
of parts of about 1 MiB, never read as a whole. Which part is being read, and which row of it comes next, is
the only state, so an iterator can be saved after any row and goes on exactly. tf.data's own CsvDataset is not used for
that: restored from a saved state it leaves rows out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from tapeworks import errors
from tapeworks_workers.components.sources.row_blocks import rows_of
from tapeworks_workers.components.sources.safe_casts import Array

T = TypeVar("T")
Part = tuple[int, int]
"""What its reader knows a part by: its first and last byte, or the number of a row group."""

PART_BYTES = 1024 * 1024
WHOLE_FILE_BYTES = 8 * 1024 * 1024
"""Files that have no more together are read at once,"""
SAMPLE_BYTES = 8 * 1024 * 1024
"""Of the parts that the types of columns are taken from: all of small files, some of each large one."""
WHOLE_ROW_BYTES = 64 * 1024 * 1024
"""unless their rows have more."""
_AT_ONCE = 2
"""Parts that are read while the rows of an earlier one are taken."""


def stream(
    paths: Sequence[Path],
    parts: Sequence[Sequence[Part]],
    read: Callable[[Path, Part], Sequence[Array]],
    dtypes: Sequence[tf.DType],
    element: Callable[[list[tf.Tensor]], Any],
    *,
    counts: Sequence[int | None],
    size: int | None = None,
) -> tf.data.Dataset:
    """The rows of the files in order, one file after another.

    Args:
        parts: of each file.
        read: the arrays of a part, as many as `dtypes`. A JobFailure of it ends the job as invalid data.
        counts: rows of each file, None where that is not known.
        element: from those arrays as tensors to a nest whose tensors all begin with the rows' dimension.
        size: bytes of the files as they are read, where they are compressed; default: their sizes.
    """
    size = sum(path.stat().st_size for path in paths) if size is None else size
    whole = None if size > WHOLE_FILE_BYTES else _whole(paths, parts, read, dtypes, element)
    if whole is not None:
        return tf.data.Dataset.from_tensor_slices(whole)
    places = [(number, *part) for number, of_file in enumerate(parts) for part in of_file]

    def arrays(place: Array) -> list[Array]:
        file, *part = (int(one) for one in place)
        try:
            return list(read(paths[file], (part[0], part[1])))
        except errors.JobFailure as failure:
            raise ValueError(f"invalid data: {failure.message}") from failure

    @tf.autograph.experimental.do_not_convert  # converting it costs more than reading some parts
    def read_part(place: tf.Tensor) -> Any:
        # Stateless, since all that it reads is named by its arguments: so the iterator can be saved.
        return element(list(tf.numpy_function(arrays, [place], list(dtypes), stateful=False)))

    of_parts = tf.data.Dataset.from_tensor_slices(np.asarray(places, np.int64).reshape(-1, 3))
    read_ahead = of_parts.map(read_part, num_parallel_calls=_AT_ONCE, deterministic=True)
    known = [count for count in counts if count is not None]
    return rows_of(read_ahead, sum(known) if len(known) == len(counts) else None)


def checked_first(
    read: Callable[[Path, Part], Sequence[Array]], path: Path, part: Part
) -> tuple[Sequence[Array], Callable[[Path, Part], Sequence[Array]]]:
    """The arrays of one part, and a `read` that returns them once: what does not fit is refused before a job begins."""
    first = read(path, part)
    ready = {(path, part): first}

    def again(path: Path, part: Part) -> Sequence[Array]:
        found = ready.pop((path, part), None)
        return read(path, part) if found is None else found

    return first, again


def _whole(
    paths: Sequence[Path],
    parts: Sequence[Sequence[Part]],
    read: Callable[[Path, Part], Sequence[Array]],
    dtypes: Sequence[tf.DType],
    element: Callable[[list[tf.Tensor]], Any],
) -> Any:
    """All rows as one nest of tensors; None where they are too many."""
    nests, size = [], 0
    for path, of_file in zip(paths, parts, strict=True):
        for part in of_file:
            arrays = read(path, part)
            size += sum(array.nbytes for array in arrays)
            if size > WHOLE_ROW_BYTES:
                return None
            nests.append(element([tf.convert_to_tensor(*one) for one in zip(arrays, dtypes, strict=True)]))
    return tf.nest.map_structure(lambda *leaves: _joined(leaves), *nests)


def _joined(leaves: Sequence[Any]) -> Any:
    return tf.sparse.concat(0, list(leaves)) if isinstance(leaves[0], tf.SparseTensor) else tf.concat(leaves, 0)


def sampled(parts: Sequence[Sequence[T]], size: Callable[[T], int]) -> list[list[T]]:
    """The parts of each file that types are taken from: the first and the last of each, and others at even distances
    as long as they are no more than half of `SAMPLE_BYTES` together."""
    total = sum(size(part) for of_file in parts for part in of_file)
    step = 1 if total <= SAMPLE_BYTES else -(-total // (SAMPLE_BYTES // 2))
    return [[*of_file[:-1:step], *of_file[-1:]] for of_file in parts]
