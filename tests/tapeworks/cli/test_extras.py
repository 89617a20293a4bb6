"""The command line without extras: it warns of nothing, and a command says which extra it needs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def thin(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line where no extra is installed."""
    command = [sys.executable, "-m", "tests.support.thin_install", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_thin_install_warns_of_nothing() -> None:
    done = thin("schema")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["title"]


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("serve", "service"), ("keys list", "service"), ("keys create ci", "service"), ("keys revoke key_0", "service"),
        ("backup copy", "service"), ("restore .", "service"), ("worker", "worker"), ("doctor", "worker"),
        ("replay {file}", "worker"), ("component test .", "worker"),
    ],
)  # fmt: skip
def test_a_command_says_which_extra_it_needs(tmp_path: Path, command: str, extra: str) -> None:
    (tmp_path / "blackbox.tar").touch()
    done = thin(*command.format(file=tmp_path / "blackbox.tar").split())
    assert done.returncode == 8
    assert done.stdout == ""
    assert f"needs the extra '{extra}': python -m pip install 'tapeworks[{extra}]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_doctor_prints_its_json_alone() -> None:
    command = [sys.executable, "-m", "tapeworks.cli.main", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert json.loads(done.stdout)["versions"]["tapeworks"]
