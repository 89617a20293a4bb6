"""Requests of every kind, from every caller: no 5xx, and nothing of another's project."""

from pathlib import Path

import pytest

from qualification.security import requests

EXAMPLES = 1


@pytest.mark.slow
def test_whatever_is_sent_nothing_breaks_and_nothing_leaks(tmp_path: Path) -> None:
    with requests.house(tmp_path) as (url, keys):
        reports = requests.sent(url, keys, examples=EXAMPLES)
    assert {caller: one.wrong for caller, one in reports.items()} == {caller: [] for caller in requests.WHOSE}
    for one in reports.values():
        assert one.operations > 50
        assert one.requests > one.operations * EXAMPLES
