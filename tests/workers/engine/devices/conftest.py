"""One process with two logical devices for all tests here."""

from collections.abc import Iterator

import pytest

from tests.support.two_devices import TwoDevices


@pytest.fixture(scope="session")
def two_devices() -> Iterator[TwoDevices]:
    process = TwoDevices()
    yield process
    process.close()
