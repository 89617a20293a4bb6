"""A verifier's process, seen from inside; imports nothing of Tapeworks."""

from __future__ import annotations

import os
import sys
from typing import Any


def look() -> dict[str, Any]:
    """Whether Tapeworks can be imported, what Keras has registered, and who the parent is."""
    import keras

    try:
        import tapeworks  # noqa: F401

        barred = ""
    except ModuleNotFoundError as error:
        barred = str(error)
    return {
        "parent": os.getppid(),
        "barred": barred,
        "imported": sorted(name for name in sys.modules if name.startswith("tapeworks")),
        "registered": len(keras.saving.get_custom_objects()),
    }


def fail() -> None:
    """A failure with no code."""
    raise ValueError("the probe failed")


def mark(file: str) -> str:
    """Leave a file."""
    with open(file, "x"):
        return file
