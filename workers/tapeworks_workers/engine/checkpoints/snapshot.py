"""Checkpoints: the explicit values of a job, as files that another process restores.

`tf.train.Checkpoint(model=…)` leaves out Keras' seed generators, so a job's state is the named list
of `Assembly.variables()` and a JSON document of counters. On disk a snapshot is `values.npz` and
`state.json`; the bundle's `training_state/` has the same form. What layers know outside variables
is among the values, as `outside/…`.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.processes.frames import finite

if TYPE_CHECKING:
    pass

VALUES, STATE = "values.npz", "state.json"
OTHER_VARIABLES = (
    "The components created different variables from the same spec. Create layers in the order of a list or "
    "dict argument, not of a set, and let nothing but the arguments decide which layers there are."
)
EXTRA = "best/"
"""Values under this prefix belong to the loop (the best weights so far), not to variables."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Snapshot:
    """A moment of training: arrays by the names of `Assembly.variables()`, and JSON counters."""

    values: dict[str, np.ndarray]
    counters: dict[str, Any]


def write_values(state: Snapshot, folder: Path) -> None:
    """Write `values.npz` and `state.json`: the same snapshot gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    dtypes = {name: value.dtype.name for name, value in state.values.items()}
    with zipfile.ZipFile(folder / VALUES, "w", zipfile.ZIP_STORED) as archive:
        for name, value in state.values.items():
            buffer = io.BytesIO()
            # npz has no bfloat16 and the like: their bits are stored, the dtype is in state.json.
            plain = value if value.dtype.kind in "biufSU" and value.dtype.isbuiltin == 1 else _bits(value)
            np.lib.format.write_array(buffer, np.ascontiguousarray(plain).reshape(value.shape), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), buffer.getvalue())
    document = {"counters": state.counters, "dtypes": dtypes}
    (folder / STATE).write_text(json.dumps(finite(document), indent=1, allow_nan=False))


def read_values(folder: Path) -> Snapshot:
    """Read what `write_values` wrote. Raises JobFailure `checkpoint_corrupt`."""
    try:
        document = json.loads((folder / STATE).read_text())
        with np.load(folder / VALUES, allow_pickle=False) as archive:
            values = {
                name: _typed(archive[name], tf.as_dtype(dtype).as_numpy_dtype)
                for name, dtype in document["dtypes"].items()
            }
        return Snapshot(values, document["counters"])
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise StoredStateError(f"cannot be read: {error}") from error


def _bits(value: np.ndarray) -> np.ndarray:
    return value.view(np.dtype(f"u{value.dtype.itemsize}"))


def _typed(value: np.ndarray, dtype: Any) -> np.ndarray:
    return value if value.dtype == np.dtype(dtype) else value.view(dtype)


class StoredStateError(JobFailure):
    """Stored values cannot be read, or do not fit the variables of the job. `problem` lacks the subject."""

    def __init__(self, problem: str, hint: str | None = None) -> None:
        super().__init__(FailureCode.CHECKPOINT_CORRUPT, f"the checkpoint {problem}", hint=hint)
        self.problem = problem


def _unfit(problem: str) -> StoredStateError:
    return StoredStateError(problem, f"{OTHER_VARIABLES} Then submit the job again.")


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
