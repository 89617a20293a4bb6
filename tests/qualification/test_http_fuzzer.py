"""Ten seconds of the HTTP fuzzer. `make fuzz-http SECONDS=600` is longer, and measures how late the loop was."""

import pytest

from qualification.http.__main__ import MOST_GROWTH
from qualification.http.attack import attack


@pytest.mark.slow
def test_mutated_requests_break_nothing_and_cost_no_other_project_its_job() -> None:
    report = attack(10, seed=7, threads=2)
    assert report.wrong == []
    assert report.statuses.total() > 50
    assert len(report.delays) > 10
    assert report.growth < MOST_GROWTH
