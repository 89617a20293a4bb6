"""A server with a key: its own worker has it, and nobody else gets in without."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tapeworks.cli.main import app
from tapeworks.client.client import Client
from tapeworks.errors import Unauthorized
from tests.support.serving import serving

KEY = "tw_" + "k" * 40


@pytest.mark.slow
def test_the_worker_of_a_server_with_a_key_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPEWORKS_API_KEY", KEY)
    with serving(tmp_path / "data") as served:  # ready: its worker could register
        with pytest.raises(Unauthorized), Client(served.url) as stranger:
            stranger.workers()
        with pytest.raises(Unauthorized), Client(served.url, "tw_" + "x" * 40) as stranger:
            stranger.workers()
        (tmp_path / "key").write_text(KEY + "\n")
        for options in (["--key", KEY], ["--key-file", str(tmp_path / "key")]):
            done = CliRunner().invoke(app, ["--url", served.url, *options, "workers", "--ready"])
            assert done.exit_code == 0, done.stderr
        assert CliRunner().invoke(app, ["--url", served.url, "jobs"]).exit_code == 7
        assert (tmp_path / "data" / "worker.key").stat().st_mode & 0o077 == 0
