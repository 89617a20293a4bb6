"""Requests of every kind, from every caller: no 5xx, and nothing of another's project."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.security import outside

EXAMPLES = 2


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, Any]]]:
    """A service with a project full of canaries, and the keys of callers."""
    with outside.house(tmp_path_factory.mktemp("outside")) as found:
        yield found


@pytest.mark.parametrize("whose", outside.WHOSE)
def test_whatever_is_sent_nothing_breaks_and_nothing_leaks(service: tuple[str, dict[str, Any]], whose: str) -> None:
    url, keys = service
    told = outside.sent(url, keys[whose], may_see=whose == "every right", examples=EXAMPLES)
    assert not told.wrong, told.wrong
    assert told.operations > 50
    assert told.requests > told.operations * EXAMPLES
