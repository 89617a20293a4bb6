"""Long lists of cases: `make test` takes some of each, `make thorough` the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def some(cases: Iterable[Any], often: Callable[[Any], bool], *, ids: Callable[[Any], str] = str) -> list[Any]:
    """The cases as parameters; those that are not `often` wait for `make thorough`."""
    return [pytest.param(one, id=ids(one), marks=() if often(one) else pytest.mark.thorough) for one in cases]
