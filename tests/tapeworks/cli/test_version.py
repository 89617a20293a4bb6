"""`tapeworks --version`."""

from importlib.metadata import version

from typer.testing import CliRunner

from tapeworks.cli.main import app


def test_the_installed_version_is_printed() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"tapeworks {version('tapeworks')}\n")
