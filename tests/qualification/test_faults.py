"""Some rows of the fault table, once each and with short leases; `make faults` is the whole of it."""

from collections.abc import Iterator

import pytest

from qualification.faults.table import ROWS, Row
from qualification.faults.worlds import SHORT, Worlds, worlds

CASES = [(row, database) for database in ("sqlite", "postgresql") for row in ROWS if database in row.in_tests]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worlds]:
    """The worlds of one database; whatever still runs after them is an error."""
    left: list[str] = []
    with worlds(tmp_path_factory.mktemp("faults"), request.param, SHORT, left) as of_database:
        yield of_database
    assert not left, left


@pytest.mark.parametrize(
    ("made", "row"),
    [
        pytest.param(base, row, id=f"{base}-{row.name}", marks=() if base == "sqlite" else pytest.mark.slow)
        for row, base in CASES
    ],
    indirect=["made"],
)
def test_a_row_of_the_fault_table_holds(made: Worlds, row: Row) -> None:
    outcome = row.run(made.get(row.world), row.short)
    assert not outcome.wrong, outcome.wrong
