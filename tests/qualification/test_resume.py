"""A few random jobs in real runners: paused, killed and resumed, each ends with the bits of one that never stopped."""

from __future__ import annotations

import pytest

from qualification.resume.runs import Runners, check
from qualification.resume.setups import setup
from tests.support.tiers import some


@pytest.mark.slow
@pytest.mark.parametrize("seed", some([0, 2, 17], (2).__eq__))
def test_a_random_job_resumes_exactly(seed: int) -> None:
    one = setup(seed)
    print(f"seed {seed}: {one.spec}")  # noqa: T201
    with Runners() as runners:
        assert check(one, runners, say=print) == []
