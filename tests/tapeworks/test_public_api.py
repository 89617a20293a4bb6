"""What `tapeworks` exports, and what importing it costs."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import tapeworks

EXPORTS = {
    "Branch", "Callback", "Client", "EarlierJob", "Evaluator", "Files", "GradientTransform", "JobSpec", "Run",
    "Source", "SourceOfSources", "TrainingStep", "component", "errors", "from_keras", "load",
}  # fmt: skip


def test_the_exports_are_these() -> None:
    assert set(tapeworks.__all__) == EXPORTS
    assert all(getattr(tapeworks, name) is not None for name in EXPORTS)
    assert set(dir(tapeworks)) >= EXPORTS


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = tapeworks.nonsense


def test_importing_it_is_light() -> None:
    program = (
        "import sys, tapeworks\n"
        "heavy = {'tensorflow', 'keras', 'numpy', 'pydantic', 'httpx', 'typer', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "tapeworks.component, tapeworks.TrainingStep, tapeworks.load, tapeworks.Client\n"
        "heavy = {'tensorflow', 'keras', 'numpy', 'typer'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)


def test_the_version_is_the_distribution_s() -> None:
    assert tapeworks.__version__ == version("tapeworks")
