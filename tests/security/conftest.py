"""One server for all tests of this folder."""

from collections.abc import Iterator

import pytest

from qualification.security.attacked_server import House, housed


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server that takes uploaded packages."""
    with housed(tmp_path_factory.mktemp("house")) as found:
        yield found
