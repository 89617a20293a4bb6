"""`tapeworks component new` and `tapeworks component test`, from the command line to the last line printed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tapeworks.spec.references import Kind
from tapeworks_workers.authoring.component_test import main
from tapeworks_workers.authoring.scaffold import write_package


def tapeworks(*arguments: str, cwd: Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tapeworks.cli.main", "component", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=280)
    assert done.returncode == expect, done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_from_a_name_to_a_package_without_fault(tmp_path: Path) -> None:
    written = tapeworks("new", "acme/WarmLoss", "--kind", "loss", cwd=tmp_path)
    assert written.stdout.splitlines() == [
        "acme_warm_loss holds a loss, a test and a job. Next:",
        "  tapeworks component test acme_warm_loss",
        "  tapeworks serve --components acme_warm_loss",
        "  tapeworks submit acme_warm_loss/job.json --watch",
    ]
    assert tapeworks("test", "acme_warm_loss", cwd=tmp_path).stdout.splitlines() == [
        "ok    loss acme/WarmLoss",
        "ok    job acme_warm_loss/job.json",
        "2 tried, 0 would fail as a job",
    ]


@pytest.mark.slow
def test_what_would_fail_as_json_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = write_package("acme/ColdLoss", Kind.LOSS, tmp_path / "cold")
    module = package / "acme_cold_loss.py"
    rounded = module.read_text().replace("labels + spread, y_pred)", "labels + spread, tf.sign(y_pred.numpy()))")
    module.write_text(rounded + "\nprint('imported')\n")
    assert main([str(package), "--json"]) == 1
    printed = capsys.readouterr()
    assert "imported" in printed.err
    loss, job = json.loads(printed.out)
    assert (loss["name"], loss["kind"], loss["notes"]) == ("acme/ColdLoss", "loss", [])
    assert "numpy" in loss["problems"][0]
    assert (job["name"], job["kind"]) == (str(package / "job.json"), "job")


@pytest.mark.slow
def test_a_module_that_cannot_be_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "acme_torn.py").write_text("import acme_that_is_nowhere")
    assert main([str(tmp_path / "acme_torn.py")]) == 1
    first, reason, last = capsys.readouterr().out.splitlines()
    assert first == f"FAILS path {tmp_path / 'acme_torn.py'}"
    assert "No module named 'acme_that_is_nowhere'" in reason
    assert last == "1 tried, 1 would fail as a job"


def test_a_command_line_that_is_wrong(tmp_path: Path) -> None:
    assert "is not a component name" in tapeworks("new", "Warm", "--kind", "loss", cwd=tmp_path, expect=2).stderr
    (tmp_path / "acme_warm").mkdir()
    (tmp_path / "acme_warm" / "mine.py").touch()
    assert "is not empty" in tapeworks("new", "acme/Warm", "--kind", "loss", cwd=tmp_path, expect=2).stderr
    assert "does not exist" in tapeworks("test", "nowhere", cwd=tmp_path, expect=2).stderr
