"""The command line against a real server: what it prints, and how it ends."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tapeworks.cli.main import app
from tapeworks.schemas.jobs import State
from tapeworks.spec.job_spec import editor_schema
from tests.support.serving import Served, endless, eventually, running, spec


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def to_file(document: Any, name: str = "job.json") -> str:
        file = tmp_path / name
        file.write_text(document if isinstance(document, str) else json.dumps(document))
        return str(file)

    return to_file


def test_a_job_from_submit_to_download(served: Served, write: Any, tmp_path: Path) -> None:
    file = write(spec(name="cli", export={"formats": ["keras"]}, labels={"from": "cli"}))
    assert served.tapeworks("validate", file).stdout == f"{file} is valid\n"
    done = served.tapeworks("submit", file, "--watch")
    job_id = done.stderr.split()[0]
    assert "succeeded" in done.stdout
    assert f"tapeworks download {job_id}" in done.stdout

    listed = served.tapeworks("jobs", "--label", "from=cli", "--state", "succeeded").stdout.splitlines()
    assert len(listed) == 2
    assert listed[1].startswith(job_id)
    (shown,) = json.loads(served.tapeworks("jobs", "--label", "from=cli", "--json").stdout)
    assert (shown["id"], shown["state"]) == (job_id, "succeeded")
    assert json.loads(served.tapeworks("watch", job_id, "--json").stdout)["model"]["formats"] == ["keras"]
    lines = served.tapeworks("logs", job_id, "--follow", "--json").stdout.splitlines()
    assert [json.loads(line)["seq"] for line in lines] == list(range(1, len(lines) + 1))

    told = json.loads(served.tapeworks("download", "-o", str(tmp_path / "m.tar.gz"), "--json").stdout)
    assert told["job_id"] == job_id
    assert (tmp_path / "m.tar.gz").stat().st_size == told["bytes"]
    assert served.tapeworks("cancel", job_id, expect=6).stderr.startswith("error: conflict")


def test_a_spec_that_is_refused_says_where(served: Served, write: Any) -> None:
    file = write(spec(loss={"component": "focall"}))
    for command in ("submit", "validate"):
        done = served.tapeworks(command, file, expect=4)
        assert done.stdout == ""
        assert "/loss/component: " in done.stderr
        assert "focal" in done.stderr
        problem = json.loads(served.tapeworks(command, file, "--json", expect=4).stdout)
        assert [error["pointer"] for error in problem["errors"]] == ["/loss/component"]
    assert "invalid_json" in served.tapeworks("submit", write("{not json"), expect=4).stderr


def test_a_job_that_fails_ends_with_one(served: Served, write: Any) -> None:
    file = write(spec(model={"component": "mlp", "config": {"hidden": [8], "outputs": 5}}, limits={"max_attempts": 1}))
    done = served.tapeworks("submit", file, "--watch", expect=1)
    assert "invalid_data" in done.stdout
    assert "hint: " in done.stdout
    assert json.loads(served.tapeworks("submit", file, "--watch", "--json", expect=1).stdout)["state"] == "failed"


@pytest.mark.slow
def test_ctrl_c_detaches_and_says_how_to_come_back(served: Served) -> None:
    job = running(served, served.client.submit(endless()))
    controller, terminal = pty.openpty()
    watching = subprocess.Popen(
        [sys.executable, "-m", "tapeworks.cli.main", "--url", served.url, "watch", job.id],
        stdin=terminal, stdout=terminal, stderr=subprocess.PIPE, text=True, env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(terminal)
    seen = ""

    def shown() -> bool:
        nonlocal seen
        seen += os.read(controller, 65536).decode(errors="replace")
        return "step" in seen and "loss" in seen and "ETA" in seen

    eventually(shown, 30, "the live view is there")
    watching.send_signal(signal.SIGINT)
    _, errors = watching.communicate(timeout=30)
    os.close(controller)
    assert watching.returncode == 130
    assert f"tapeworks watch {job.id}" in errors
    assert not served.client.get(job.id).finished
    done = served.tapeworks("cancel", job.id)
    assert job.id in done.stdout
    assert served.client.wait(job.id, 60).state is State.CANCELLED
    assert "cancelled" in served.tapeworks("watch", job.id, expect=1).stdout


def test_components_are_listed_and_described(served: Served) -> None:
    listed = served.tapeworks("components").stdout
    assert "focal" in listed
    assert "acme/Scale" in listed
    assert "keras/Dense" not in listed
    assert "keras/Dense" in served.tapeworks("components", "layer", "--keras").stdout
    described = served.tapeworks("components", "loss/acme/Smoothed").stdout
    assert "smoothing" in described
    assert "0.1" in described
    assert json.loads(served.tapeworks("components", "loss/focal", "--json").stdout)["name"] == "focal"
    served.tapeworks("components", "loss/nothing", expect=5)
    served.tapeworks("components", "losss", expect=2)


def test_workers_are_listed(served: Served) -> None:
    (worker,) = json.loads(served.tapeworks("workers", "--json").stdout)
    assert worker["id"] in served.tapeworks("workers", "--ready").stdout
    served.tapeworks("workers", "nobody", "--ready", expect=1)
    assert "nobody" in served.tapeworks("workers", "nobody", expect=5).stderr


def test_an_unknown_job_ends_with_five(served: Served) -> None:
    for command in ("watch", "cancel", "logs", "download"):
        assert "not_found" in served.tapeworks(command, "job_nothing", expect=5).stderr
        assert json.loads(served.tapeworks(command, "job_nothing", "--json", expect=5).stdout)["code"] == "not_found"


def test_one_server_for_each_folder(served: Served) -> None:
    done = served.tapeworks("serve", "--port", "0", "--data-dir", str(served.data), expect=8)
    assert "another server" in done.stderr


def test_without_a_service() -> None:
    done = CliRunner().invoke(app, ["--url", "http://127.0.0.1:1", "workers"])
    assert done.exit_code == 3
    assert "tapeworks serve" in done.stderr
    assert CliRunner().invoke(app, ["submit", "no-such-file.json"]).exit_code == 2
    assert json.loads(CliRunner().invoke(app, ["schema"]).stdout) == json.loads(json.dumps(editor_schema()))


def test_an_open_address_needs_a_key(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["serve", "--host", "0.0.0.0", "--data-dir", str(tmp_path), "--no-worker"])  # noqa: S104
    assert done.exit_code == 8
    assert "key" in done.stderr


@pytest.mark.parametrize(
    ("options", "settings", "code", "words"),
    [
        (["--data-dir", "{file}"], {}, 8, "choose another --data-dir"),
        (["--data-dir", "{file}/below"], {}, 8, "choose another --data-dir"),
        (["--port", "99999"], {}, 2, "--port"),
        ([], {"TAPEWORKS_PORT": "http"}, 8, "TAPEWORKS_PORT"),
        ([], {"TAPEWORKS_DATABASE_URL": "nonsense"}, 8, "database URL"),
    ],
)
def test_a_server_that_cannot_start_says_why(
    tmp_path: Path, options: list[str], settings: dict[str, str], code: int, words: str
) -> None:
    (tmp_path / "file").write_text("")
    line = ["serve", "--data-dir", str(tmp_path / "data"), "--no-worker"]
    line += [option.format(file=tmp_path / "file") for option in options]
    done = CliRunner().invoke(app, line, env=settings)
    assert done.exit_code == code, done.output
    assert words in done.stderr
    assert "Traceback" not in done.output
