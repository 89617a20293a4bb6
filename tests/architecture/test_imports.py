"""Who may import what: the contracts of pyproject.toml, and what a process has really loaded."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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


@pytest.mark.slow
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


WORKERS = Path(__file__).parents[2] / "workers" / "tapeworks_workers"
PRIVATE = ("keras.src", "tensorflow.python", "tensorflow.core", "tensorflow.compiler")
STANDALONE = {WORKERS / "processes" / "base_zygote.py", WORKERS / "verification" / "reload.py"}
"""They import nothing of Tapeworks, so they cannot ask `engine/graph`."""


def private_modules(source: str) -> Iterator[str]:
    """Private modules of TensorFlow and Keras that a file imports or reaches through a package's attributes."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names = [ast.unparse(node).replace("tf.", "tensorflow.", 1)] if isinstance(node, ast.Attribute) else []
        yield from (name for name in names if f"{name}.".startswith(tuple(f"{one}." for one in PRIVATE)))


def test_private_modules_are_imported_in_one_folder() -> None:
    files = [file for file in sorted(WORKERS.rglob("*.py")) if (WORKERS / "engine" / "graph") not in file.parents]
    found = {file: list(private_modules(file.read_text(encoding="utf-8"))) for file in files}
    assert {str(file): names for file, names in found.items() if names and file not in STANDALONE} == {}
    assert all(found[file] for file in STANDALONE), "an exception that is none any more"


@pytest.mark.parametrize(
    "source",
    [
        "import keras.src.ops as ops", "from keras.src import ops", "from keras import src",
        "from tensorflow import core", "def f():\n    from tensorflow.python.eager import context",
        "x = keras.src.models.Functional",
        "x = tf.python.eager.context",
    ],
)  # fmt: skip
def test_a_private_module_is_found(source: str) -> None:
    assert list(private_modules(source))
    assert not list(private_modules("import keras\nfrom tensorflow import data\nx = keras.srcs"))
