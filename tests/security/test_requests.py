"""Requests of every kind, from every caller: no 5xx, and nothing of another's project."""

from pathlib import Path

import pytest

from qualification.security import requests

EXAMPLES = 1


@pytest.mark.slow
def test_whatever_is_sent_nothing_breaks_and_nothing_leaks(tmp_path: Path) -> None:
    with requests.house(tmp_path) as (url, keys):
        told = requests.sent(url, keys, examples=EXAMPLES)
    assert {whose: one.wrong for whose, one in told.items()} == {whose: [] for whose in requests.WHOSE}
    for one in told.values():
        assert one.operations > 50
        assert one.requests > one.operations * EXAMPLES
