"""A `tapeworks serve` of its own for the time of a block, and the places that the examples serve."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
DATA = EXAMPLES / "data"
READY_SECONDS = 240


def component_folders() -> list[Path]:
    """The folders of components: those that hold a spec's own file, and the packages."""
    beside = {file.parent for file in EXAMPLES.glob("*/*.py")} - {DATA}
    return sorted(beside | {file.parent for file in EXAMPLES.glob("packages/*/pyproject.toml")})


def options() -> list[str]:
    """Options of `tapeworks serve` with which every example runs."""
    components = [part for folder in component_folders() for part in ("--components", str(folder))]
    return [*components, "--data-root", str(DATA)]


@contextmanager
def served(folder: Path, arguments: Sequence[str] = ()) -> Iterator[str]:
    """The address of a server that is ready, with everything below `folder`; stopped in the end, whatever happens."""
    data, log = folder / "data", folder / "serve.log"
    command = [sys.executable, "-m", "tapeworks.cli.main", "serve", "--port", "0", "--data-dir", str(data), *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TAPEWORKS_")}
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    try:
        yield _ready(process, data, log)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    if code:
        raise SystemExit(f"tapeworks serve ended with {code}: see {log}")


def _ready(process: subprocess.Popen[bytes], data: Path, log: Path) -> str:
    """The address, once /readyz answers 200."""
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"tapeworks serve ended with {process.returncode}: see {log}")
        try:
            url = str(json.loads((data / "server.json").read_text())["url"])
            if httpx.get(f"{url}/readyz").status_code == 200:
                return url
        except (FileNotFoundError, httpx.TransportError):
            pass
        time.sleep(0.2)
    raise SystemExit(f"not ready after {READY_SECONDS} s: see {log} and {data / 'logs'}")
