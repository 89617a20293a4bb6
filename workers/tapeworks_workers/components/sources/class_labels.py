"""Labels that are names: the texts, integers or booleans of one column, as numbers of the job's list of classes.

`NamedLabels` is what `csv`, `parquet` and `jsonl` share. The engine gives all sources of a job one list, that of the
training split, before it asks for a dataset; a source by itself numbers its own values in order.
"""

from __future__ import annotations

import functools
import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tapeworks import Source, errors
from tapeworks_workers.components.sources.safe_casts import Array, Unfit

Classes = list[str | int] | Literal["auto"] | None
"""Names in the order of their numbers; `auto`: those of the training split."""
LABEL_OF_FEATURE = "column {0!r} is a feature and, by its classes, a label: leave it out of features"
FRACTIONS = (
    "column {0!r} holds fractions: classes are texts, integers or booleans; leave classes out where the label is a "
    "quantity, or list them as they are written"
)
_INTEGER = re.compile(r"-?(0|[1-9]\d*)")
_SHOWN = 10


class NamedLabels(Source):
    """A source of rows whose label may be a name.

    A subclass calls `number_classes` in `__init__`.
    """

    by_name = False
    """Whether the label is numbered by a list of classes."""
    _given: list[str] | None = None

    def number_classes(
        self, classes: Classes, labels: str | list[str] | None, dtypes: Mapping[str, str], *, missing: bool
    ) -> None:
        """Take the argument `classes`; `missing`: whether a row without a label gets -1.

        Raises ValueError where there is not exactly one label column.
        """
        self.by_name = classes is not None
        self.missing_labels = self.by_name and missing
        if classes is None:
            return
        if not isinstance(labels, str):
            raise ValueError("classes are those of one label column: give its name in labels")
        if labels in dtypes:
            raise ValueError(f"classes make {labels!r} int64: leave it out of dtypes")
        if classes != "auto":
            self._given = [str(name) for name in classes]
            if len(set(self._given)) < len(self._given) or not self._given:
                raise ValueError("classes must be different names, one or more")
        self.classes = self._given

    _training: NamedLabels | None = None

    def adopt_dtypes(self, training: Source) -> None:
        if isinstance(training, NamedLabels):
            self._training = training

    def of_training(self, name: str, default: str) -> str:
        """The dtype of a column of numbers in the training split; `default` where it has none."""
        other = None if self._training is None else self._training.column_dtype(name)
        return default if other is None or "string" in (other, default) else other

    @abstractmethod
    def column_dtype(self, name: str) -> str | None:
        """The dtype of a column by itself; None where there is no such column."""

    def class_names(self) -> list[str] | None:
        """The list that was given, which every label is compared with when it is read; else all names, in order."""
        if not self.by_name:
            return None
        return self._given or self._in_order

    def class_order(self, name: str) -> Any:
        """Integers by size, before texts."""
        return (0, int(name), name) if _INTEGER.fullmatch(name) else (1, 0, name)

    def single_class(self, name: str) -> tuple[str, str]:
        return (
            f"every row has the label {name!r}",
            'Give a label column with several values, or "classes": a list, if there is only one class.',
        )

    @functools.cached_property
    def _in_order(self) -> list[str]:
        found = self._found_classes()
        if self.missing_labels:
            found.discard("")
        if "" in found:
            raise errors.JobFailure(
                errors.FailureCode.INVALID_DATA,
                "the label column has rows without a value, and a missing value is not a class",
                hint='Give "nulls": "missing" and leave these rows out by {"op": "drop_missing", "fields": ["y"]} in '
                'data.pipeline, or give "classes" as a list with the name "" among them.',
                location=errors.Location(component=type(self).__name__.lower()),
            )
        return sorted(found, key=self.class_order)

    @abstractmethod
    def _found_classes(self) -> set[str]:
        """The texts of the label column of all files. Raises JobFailure."""


def distinct(parts: Iterable[Array]) -> set[str]:
    """The different texts of arrays of bytes. Raises JobFailure for what is no UTF-8."""
    found: set[bytes] = set()
    for part in parts:
        found.update(part.tolist())
    try:
        return {text.decode() for text in found}
    except UnicodeDecodeError as error:
        raise errors.JobFailure(
            errors.FailureCode.INVALID_DATA, f"a label is not UTF-8 ({error.reason}): it cannot be the name of a class"
        ) from error


def class_numbers(texts: Array, classes: Sequence[str], *, missing: bool) -> Array:
    """The place of each text (bytes) in the list, int64; with `missing` -1 for an empty one that is not there, as the
    codes of pandas' categories. Raises Unfit with the first other that is not there."""
    import pyarrow as pa
    import pyarrow.compute as compute

    names = pa.array([name.encode() for name in classes], pa.binary())
    found = compute.index_in(pa.array(texts, pa.binary()), names)
    unknown = np.flatnonzero(found.is_null().to_numpy(zero_copy_only=False))
    if missing:
        unknown = unknown[texts[unknown] != b""]
    if len(unknown):
        position = int(unknown[0])
        text = texts[position].decode(errors="replace")
        shown = ", ".join(map(repr, classes[:_SHOWN])) + (", …" if len(classes) > _SHOWN else "")
        what = f"holds the label {text!r}" if text else 'has no label ("nulls": "missing" makes it -1)'
        raise Unfit(position, f"{what}; the classes are {shown}")
    return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False)).astype(np.int64)
