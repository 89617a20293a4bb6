"""Who may import what: the contracts of pyproject.toml, and what a process has really loaded."""

import subprocess
import sys

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

HEAVY = ("tensorflow", "keras", "numpy", "fastapi", "sqlalchemy")


def loaded_after(statement: str) -> set[str]:
    """Top-level modules in a fresh process after a statement."""
    program = f"import sys\n{statement}\nsys.stdout.write(' '.join(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    return set(done.stdout.split())


def test_import_contracts() -> None:
    assert lint_imports(no_cache=True) == EXIT_STATUS_SUCCESS


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import tapeworks, tapeworks.client", {*HEAVY, "tapeworks_service", "tapeworks_workers"}),
        ("import tapeworks.cli.main", set(HEAVY)),  # the other packages add their commands to it
        ("import tapeworks_service.app", {"tensorflow", "keras", "numpy", "tapeworks_workers"}),
        ("import tapeworks_workers.agent.agent", {*HEAVY, "tapeworks_service"}),
    ],
)
def test_a_process_loads_only_its_own_package(statement: str, forbidden: set[str]) -> None:
    assert loaded_after(statement) & forbidden == set()


def test_the_service_starts_where_tensorflow_is_not_installed() -> None:
    barred = "import sys\nfor name in ('tensorflow', 'keras', 'numpy'): sys.modules[name] = None\n"
    loaded_after(
        barred + "from tapeworks_service.app import create_app\n"
        "from tapeworks_service.settings import ServiceSettings\n"
        "import tempfile\n"
        "create_app(ServiceSettings(data_dir=tempfile.mkdtemp()))"
    )
