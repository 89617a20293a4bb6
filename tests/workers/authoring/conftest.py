"""One zygote for the verifiers of every job that is tried."""

from collections.abc import Iterator

import pytest

from tapeworks_workers.authoring.attempts import Attempts


@pytest.fixture(scope="package")
def attempts() -> Iterator[Attempts]:
    with Attempts() as running:
        yield running
