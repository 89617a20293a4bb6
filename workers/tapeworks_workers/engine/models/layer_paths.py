"""The layers of a model by path: names from the model's own layers inwards, joined by `/` (`encoder/dense_1`).

Globs of the spec (`freeze`, `initial_state.layers`, an optimizer's `variables`) match whole paths; `*` reaches over
`/`. A layer that is adapted is a leaf: what it keeps inside is its own business.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import keras

from tapeworks.errors import FailureCode, JobFailure

_LISTED = 20


def layers_by_path(model: Any) -> list[tuple[str, keras.Layer]]:
    """(path, layer) from the outside in; `model`: a Keras model, built or not, or a draft of one with `layers`."""
    found: list[tuple[str, keras.Layer]] = []

    def walk(parent: Any, prefix: str) -> None:
        if isinstance(parent, keras.Sequential) or not isinstance(parent, keras.Layer):
            children = parent.layers
        else:
            children = parent._flatten_layers(recursive=False, include_self=False)
        for child in children:
            if isinstance(child, keras.layers.InputLayer):
                continue
            found.append((prefix + child.name, child))
            if not hasattr(child, "adapt"):
                walk(child, f"{prefix}{child.name}/")

    walk(model, "")
    return found


def matching(model: keras.Model, globs: Sequence[str], *, pointer: str) -> list[tuple[str, keras.Layer]]:
    """The layers that any of the globs matches; `*` matches `/` too, and alone the model itself, whose path is "".

    Raises JobFailure `invalid_spec` where a glob matches none.
    """
    layers = [("", model), *layers_by_path(model)]
    paths = [path for path, _ in layers[1:]]
    for index, glob in enumerate(globs):
        if not any(fnmatchcase(path, glob) for path, _ in layers):
            close = difflib.get_close_matches(glob, paths, n=1)
            raise JobFailure(
                FailureCode.INVALID_SPEC,
                f"{pointer}/{index}: {glob!r} matches no layer; there are: {listed(paths)}",
                hint=f"Did you mean {close[0]!r}?"
                if close
                else "Globs are matched against whole paths: 'encoder/*' is everything inside encoder.",
            )
    return [(path, layer) for path, layer in layers if any(fnmatchcase(path, glob) for glob in globs)]


def listed(names: Sequence[str]) -> str:
    """For a message."""
    shown = ", ".join(names[:_LISTED]) or "none"
    return f"{shown} and {len(names) - _LISTED} more" if len(names) > _LISTED else shown
