"""Requests that once held the service hold nobody; another project's worker goes on."""

from pathlib import Path

import pytest

from qualification.security import service_attacks


@pytest.mark.slow
def test_no_request_holds_the_service(tmp_path: Path) -> None:
    with service_attacks.ground(tmp_path) as ground:
        outcomes = [(attack.tried, wrong) for attack, _, wrong, _ in service_attacks.tried(ground)]
    assert outcomes == [(attack.tried, "") for attack in service_attacks.ATTACKS]
