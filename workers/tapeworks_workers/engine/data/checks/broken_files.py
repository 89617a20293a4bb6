"""Errors of a running pipeline, with the file that caused them: TensorFlow's own do not name it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import tensorflow as tf

from tapeworks.components.interfaces import Source

_LISTED = 100


@contextlib.contextmanager
def named(sources: Iterable[Source]) -> Iterator[None]:
    """What TensorFlow raises inside becomes what the first of the sources explains it to be."""
    try:
        yield
    except (tf.errors.OpError, UnicodeDecodeError) as error:  # the latter of a message that quotes the data's bytes
        for source in sources:
            explained = source.explain(error)
            if explained is not None:
                raise explained from error
        raise


def skipped_message(component: str, source: Source) -> str | None:
    """What a source leaves out because it cannot be read, counted and listed; None where it is nothing."""
    skipped = source.skipped()
    if not skipped:
        return None
    more = f"; and {len(skipped) - _LISTED} more" if len(skipped) > _LISTED else ""
    listed = "; ".join(skipped[:_LISTED]) + more
    return f"{component}: {len(skipped)} {source.skipped_kind} cannot be read and are skipped: {listed}"
