"""A short run of the protocol's fuzzer; `make fuzz-protocol SECONDS=600` is a long one."""

from __future__ import annotations

import pytest

from qualification.security.attacked_server import House
from qualification.security.protocol_fuzzer import fuzzed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "tries"), [(1, 3), pytest.param(1000, 60, marks=pytest.mark.thorough)], ids=["short", "long"]
)
def test_no_other_job_notices_what_a_sandbox_says(house: House, seed: int, tries: int) -> None:
    noticed = fuzzed(house, seed=seed, tries=tries, seconds=1800, per_zygote=2)
    assert noticed.wrong == []
    assert noticed.outcomes.total() == tries
