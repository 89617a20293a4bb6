"""What the tests of workers share."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
import pytest


def _until(condition: Callable[[], object], *, seconds: float = 60, what: str = "") -> object:
    """Wait for a condition and return what it gave; a test that waits for something never sleeps for luck."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not seen within {seconds} s: {what or condition}")
        time.sleep(0.02)
    return found


@pytest.fixture
def until() -> Callable[..., object]:
    """`until(condition, seconds=60, what="")`."""
    return _until


def _gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody waited for yet has."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def gone() -> Callable[[int], bool]:
    """`gone(pid)`."""
    return _gone
