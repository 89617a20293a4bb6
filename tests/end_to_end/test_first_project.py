"""From an empty folder to a trained model: init, component test, serve, submit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.serving import serving


@pytest.mark.slow
def test_a_new_project_passes_its_tests_and_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tapeworks(*arguments: str) -> str:
        command = [sys.executable, "-m", "tapeworks.cli.main", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=250, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    folder = tmp_path / "first"
    tapeworks("init", "first")
    tried = tapeworks("component", "test", "first", "--data-root", "first")
    assert tried.splitlines()[-1] == "2 tried, 0 would fail as a job"
    pytest_run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    assert subprocess.run(pytest_run, cwd=folder, timeout=250).returncode == 0
    monkeypatch.chdir(folder)
    with serving(tmp_path / "data", "--components", str(folder), "--data-root", str(folder)) as served:
        shown = served.tapeworks("submit", "--watch").stdout
        assert "succeeded" in shown
        assert next(served.client.list(name="flowers")).metrics["val_accuracy"] > 0.8
        assert "loaded again and compared" in served.tapeworks("show", "flowers").stdout
