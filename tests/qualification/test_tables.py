"""Twenty random tables, written and read by pandas, polars and DuckDB: the sources read the same values.

`python -m qualification.tables --only SEED` prints one; `--count 300` runs as many others.
"""

from pathlib import Path

import pytest

from qualification.tables.comparison import differences
from qualification.tables.setups import setup
from tapeworks.components.loading import load_installed

SEEDS = range(800_000, 800_020)


@pytest.fixture(autouse=True)
def built_in() -> None:
    """Load the built-in components."""
    load_installed()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.filterwarnings("ignore")  # of the three libraries
def test_sources_read_what_the_libraries_read(seed: int, tmp_path: Path) -> None:
    one = setup(seed, large=0.15)
    assert differences(one, tmp_path) == [], "\n".join(one.lines())
