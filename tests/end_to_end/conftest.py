"""One server for all tests of this folder: starting a worker costs seconds."""

from collections.abc import Iterator

import pytest

from examples.serving import options
from tests.support.serving import COMPONENTS, Served, serving


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A ready server with one worker of one CPU slot, the tests' own components and those of the examples."""
    data = tmp_path_factory.mktemp("served")
    with serving(data, "--components", str(COMPONENTS), *options(), "--cpu-slots", "1") as server:
        yield server
