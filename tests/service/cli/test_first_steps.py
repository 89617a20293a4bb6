"""How `tapeworks serve` begins: on a terminal, with a browser, with a port that is taken."""

from __future__ import annotations

import os
import pty
import shlex
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tapeworks.cli.main import app
from tapeworks_service.cli.first_steps import command_with
from tests.support.serving import eventually


@contextmanager
def served_on_a_terminal(folder: Path, *options: str, browser: str = "/bin/true") -> Iterator[int]:
    """`tapeworks serve --no-worker` on a terminal; gives the terminal's other end."""
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "tapeworks.cli.main", "serve", "--no-worker", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--data-dir", str(folder), *options], stdin=terminal, stdout=terminal, stderr=subprocess.DEVNULL,
        env={**os.environ, "BROWSER": browser},
    )  # fmt: skip
    os.close(terminal)
    try:
        yield controller
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        os.close(controller)


def test_a_terminal_is_greeted_and_the_page_is_opened_when_it_is_there(tmp_path: Path) -> None:
    opened, browser = tmp_path / "opened", tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}.part && mv {opened}.part {opened}\n')
    browser.chmod(browser.stat().st_mode | stat.S_IXUSR)
    with served_on_a_terminal(tmp_path / "data", "--open", browser=f"{browser} %s") as controller:
        seen = ""
        while "tapeworks init" not in seen:
            seen += os.read(controller, 4096).decode()
        url = seen.split("Tapeworks listens on ")[1].split()[0]
        assert f"The page: {url}" in seen
        tried = [line for line in seen.splitlines() if line.startswith("  tapeworks ")]
        assert len(tried) == 3
        assert f"--url {url} submit" in tried[0], "not the default address"
        eventually(opened.exists, 30, "the page was opened")
    assert opened.read_text().strip() == url


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on, below 65535."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def test_a_port_that_is_taken_offers_the_next_free_one(tmp_path: Path, taken: int) -> None:
    folder = tmp_path / "my data"
    done = CliRunner().invoke(app, ["serve", "--no-worker", "--port", str(taken), "--data-dir", str(folder)])
    assert done.exit_code == 8
    message = " ".join(done.stderr.split())
    assert f"port {taken} of 127.0.0.1 is in use, port " in message
    offered = message.rpartition(" is free: ")[2]
    words = shlex.split(offered)
    free = int(words[words.index("--port") + 1])
    assert free > taken
    assert sorted(words) == sorted(
        ["tapeworks", "serve", "--port", str(free), "--data-dir", str(folder), "--no-worker"]
    )
    with socket.socket() as another:
        another.bind(("127.0.0.1", free))


def test_an_address_that_is_not_of_this_machine_offers_no_port(tmp_path: Path) -> None:
    line = ["serve", "--no-worker", "--host", "192.0.2.1", "--port", "8000", "--data-dir", str(tmp_path)]
    done = CliRunner().invoke(app, line, env={"TAPEWORKS_API_KEY": "tw_" + "0" * 40})
    assert done.exit_code == 8
    assert "192.0.2.1" in done.stderr
    assert "is free" not in done.stderr


def test_the_command_keeps_what_was_given() -> None:
    given = {
        "--host": None,
        "--port": 8000,
        "--components": [Path("a b"), Path("c")],
        "--no-worker": True,
        "--open": False,
    }
    assert command_with(given, 8001) == "tapeworks serve --port 8001 --components 'a b' --components c --no-worker"
