"""Twenty random tables, written and read by pandas, polars and DuckDB: the sources read the same values.

`python -m qualification.tables --only SEED` prints one; `--count 300` runs as many others.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from qualification.tables.comparison import differences
from qualification.tables.setups import setup
from tapeworks.components.loading import load_installed
from tapeworks_workers.engine.factory.factory import set_data_roots

SEEDS = range(800_000, 800_020)


@pytest.fixture(autouse=True)
def no_roots() -> Iterator[None]:
    """The components are there, and no data root is left behind."""
    load_installed()
    yield
    set_data_roots([])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.filterwarnings("ignore")  # of the three libraries
def test_sources_read_what_the_libraries_read(seed: int, tmp_path: Path) -> None:
    one = setup(seed, large=0.15)
    assert differences(one, tmp_path) == [], "\n".join(one.lines())
