"""The components of the fuzzer, registered as an installed package's are."""

from __future__ import annotations

import importlib

from tapeworks.components.loading import load_installed


def register() -> None:
    """The built-in components and the fuzzer's own; may be called again."""
    load_installed()
    for module in ("components", "networks"):
        importlib.import_module(f"qualification.differential.{module}")
