"""`tapeworks worker`: options, environment, refusals to start; and that no TensorFlow enters the agent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import typer
from typer.testing import CliRunner

from tapeworks_workers.cli.commands import register
from tapeworks_workers.settings import WorkerSettings


def run(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tapeworks_workers", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | environment)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("tw_0123456789abcdef\n")
    given = {
        "TAPEWORKS_WORKER_SERVER": "http://service:8000",
        "TAPEWORKS_WORKER_KEY_FILE": str(key),
        "TAPEWORKS_WORKER_COMPONENTS": "/a:/b/c.py",
        "TAPEWORKS_WORKER_DATA_ROOTS": "/data",
        "TAPEWORKS_WORKER_LABELS": "zone=a,disk=fast",
        "TAPEWORKS_WORKER_CPU_SLOTS": "3",
        "TAPEWORKS_RUNNER": "spawn",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = WorkerSettings()
    assert settings.server == "http://service:8000"
    assert settings.key() == "tw_0123456789abcdef"
    assert settings.components == [Path("/a"), Path("/b/c.py")]
    assert settings.data_roots == [Path("/data")]
    assert settings.labels == {"zone": "a", "disk": "fast"}
    assert settings.cpu_slots == 3
    assert settings.runner == "spawn"
    assert WorkerSettings(server="http://other").server == "http://other"


def test_two_workers_of_one_host_have_names_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = WorkerSettings(work_dir=tmp_path / "a"), WorkerSettings(work_dir=tmp_path / "b")
    assert first.id != second.id
    monkeypatch.chdir(tmp_path)
    assert WorkerSettings(work_dir=Path("a")).id == first.id, "the same after a restart"


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "a b"},
        {"labels": "zone"},
        {"runner": "thread"},
        {"cpu_slots": -1},
        {"server": "service:8000"},
        {"server": "nonsense"},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        WorkerSettings(**wrong)


def test_the_command_is_added_to_a_cli() -> None:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    shown = CliRunner().invoke(app, ["worker", "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    for option in (
        "--server",
        "--key-file",
        "--work-dir",
        "--components",
        "--data-root",
        "--cpu-slots",
        "--id",
        "--label",
    ):
        assert option in shown.output


def test_a_wrong_option_is_refused() -> None:
    answer = run("--label", "zone")
    assert answer.returncode == 2
    assert "name=value" in answer.stderr


def test_its_own_help_needs_no_rich() -> None:
    answer = run("--help")
    assert answer.returncode == 0
    assert "--data-root" in answer.stdout
    assert "Traceback" not in answer.stderr


def test_a_work_folder_has_one_worker(tmp_path: Path) -> None:
    import fcntl

    with (tmp_path / "worker.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        answer = run("--work-dir", str(tmp_path))
    assert answer.returncode == 1
    assert "another worker runs in" in answer.stderr


def test_a_missing_key_file_is_told(tmp_path: Path) -> None:
    answer = run("--work-dir", str(tmp_path), "--key-file", str(tmp_path / "none"))
    assert answer.returncode == 1
    assert "No such file" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_no_tensorflow_and_no_service_in_the_agent() -> None:
    code = (
        "import sys, tapeworks_workers.agent.agent, tapeworks_workers.cli.commands; "
        "print([n for n in sys.modules if n.split('.')[0] in "
        "('tensorflow', 'keras', 'fastapi', 'sqlalchemy', 'tapeworks_service', 'numpy')])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_a_supervised_worker_is_started_again_and_says_whether_it_lives(tmp_path: Path, until: Any) -> None:
    command = [sys.executable, "-m", "tapeworks_workers", "--supervise", "--server", "http://127.0.0.1:1"]
    health = [sys.executable, "-m", "tapeworks_workers.health", str(tmp_path)]

    def lives() -> bool:
        return subprocess.run(health, check=False, capture_output=True).returncode == 0

    def agent() -> psutil.Process | None:
        return next(iter(psutil.Process(supervisor.pid).children()), None)

    assert not lives()
    supervisor = subprocess.Popen([*command, "--work-dir", str(tmp_path)], stderr=subprocess.DEVNULL)
    try:
        until(lives)
        former = until(agent)
        assert "--supervise" not in former.cmdline()
        former.kill()
        until(lambda: not former.is_running() and agent())
        supervisor.terminate()
        assert supervisor.wait(60) == 0
    finally:
        supervisor.kill()
        supervisor.wait()
