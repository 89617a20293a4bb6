"""What `images` and `text` share: files whose class is the name of their folder, and files that cannot be read.

The folder's name counts, not the path above it: `flowers/daisy/1.png` is a daisy. The engine gives all sources of a job
one list of classes, that of the training split, before it asks for a dataset; a source by itself numbers its own, in
order of name.
"""

from __future__ import annotations

import functools
import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import tensorflow as tf

from tapeworks import Source, errors
from tapeworks_workers.components.sources.image_files import BrokenImage
from tapeworks_workers.components.sources.text_encoding import BrokenText

_SHOWN = 5


class LabelledFiles(Source):
    """What sources of files in folders share: labels by folder, files that cannot be read."""

    name: str
    paths: list[Path]
    labels: Literal["folder"] | None
    on_error: Literal["fail", "skip"]
    max_skipped: int

    def files(self) -> list[Path]:
        return self.paths

    def class_names(self) -> list[str] | None:
        return sorted({path.parent.name for path in self.paths}) if self.labels else None

    def named_label(self, path: Path) -> str:
        """The name of the class of a file."""
        return path.parent.name

    def skipped(self) -> list[str]:
        return [why for _, why in self._examined[1]]

    @functools.cached_property
    def _examined(self) -> tuple[list[Any], list[tuple[Path, str]]]:
        """The files that can be read, and (path, reason) of the others. Raises JobFailure for those not allowed."""
        if self.on_error == "fail":
            return [readable(self.name, functools.partial(self._examine, path)) for path in self.paths], []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            results = list(pool.map(self._tried, self.paths))
        broken = [(p, r) for p, r in zip(self.paths, results, strict=True) if isinstance(r, str)]
        if len(broken) > self.max_skipped or len(broken) == len(self.paths):
            allowed = f"max_skipped is {self.max_skipped}" if len(broken) > self.max_skipped else "none is left"
            raise invalid(
                self.name,
                f"{len(broken)} of {len(self.paths)} files cannot be read, {allowed}: {_listed(broken)}",
                "Repair or remove the files, or raise max_skipped.",
            )
        return [result for result in results if not isinstance(result, str)], broken

    @abstractmethod
    def _examine(self, path: Path) -> Any:
        """A file by its headers, or by all of it where these leave a doubt. Raises BrokenImage, BrokenText."""

    @abstractmethod
    def _tried(self, path: Path) -> Any:
        """A file that was decoded, or why it cannot be."""

    def _numbers(self, paths: Sequence[Path]) -> tf.Tensor:
        """The number of each file's class. Raises JobFailure for what is no class."""
        names = self.classes or self.class_names() or []
        number = {name: index for index, name in enumerate(names)}
        for path in paths:
            if (label := self.named_label(path)) not in number:
                what = "folder" if label == path.parent.name else f"label {label!r}"
                raise invalid(self.name, f"{path.parent.name}/{path.name}: its {what} is none of {', '.join(names)}")
        return tf.constant([number[self.named_label(path)] for path in paths], tf.int64)


def readable(source: str, read: Callable[[], Any]) -> Any:
    """What `read` gives. Raises JobFailure where the file cannot be read."""
    try:
        return read()
    except (BrokenImage, BrokenText) as error:
        raise unreadable(source, str(error)) from error


def unreadable(source: str, message: str) -> errors.JobFailure:
    return invalid(source, message, 'Repair or remove the file, or give "on_error": "skip".')


def _listed(broken: Sequence[tuple[Path, str]]) -> str:
    more = f"; and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
    return "; ".join(why for _, why in broken[:_SHOWN]) + more


def invalid(source: str, message: str, hint: str = "") -> errors.JobFailure:
    return errors.JobFailure(
        errors.FailureCode.INVALID_DATA, message, hint=hint or None, location=errors.Location(component=source)
    )
