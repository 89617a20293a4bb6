"""JSON as it is sent."""

from __future__ import annotations

from typing import Any

from pydantic_core import to_json


def encoded(content: Any) -> bytes:
    """JSON as it is sent."""
    return to_json(content, inf_nan_mode="strings")
