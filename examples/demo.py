"""The main job from end to end, on this machine: `make demo`.

Starts `tapeworks serve` on a free port with a folder of its own, submits digits_focal.json, shows its
progress, downloads the bundle, and loads it in a fresh Python in which `tapeworks` cannot be imported.
Ends with 0 only if the held-out accuracy is at least 0.95 and the loaded model is the trained one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tapeworks import Client
from tapeworks.bundle import check, extract
from tapeworks.cli.progress import line
from tapeworks.jobs import Job, State

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "demo"
WANTED = 0.95
READY_SECONDS = 240
JOB_SECONDS = 600

IN_A_FRESH_PYTHON = """
import importlib.abc, runpy, sys

class Barred(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tapeworks", "tapeworks_workers", "tapeworks_service"):
            raise ModuleNotFoundError(f"{name} is barred here", name=name)

sys.meta_path.insert(0, Barred())
sys.argv = [sys.argv[1]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def main() -> int:
    """The demo; its exit code."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    began = time.monotonic()
    with served(FOLDER / "data") as url, Client(url) as client:
        print(f"serving on {url}, ready after {time.monotonic() - began:.0f} s")
        job = client.submit(ROOT / "examples" / "digits_focal.json")
        job = client.wait(job.id, JOB_SECONDS, each_change())
        if job.state is not State.SUCCEEDED:
            print(f"the job {job.state.value}: {job.failure}")
            return 1
        archive = client.download(job.id, FOLDER / "model.tar.gz")
    print(f"downloaded {archive.stat().st_size / 1024:.0f} KiB, digest right; everything is stopped")

    bundle = extract(archive, FOLDER / "model")
    check(bundle)
    loaded = load_in_a_fresh_python(bundle)
    return report(job, bundle, loaded)


@contextmanager
def served(data: Path) -> Iterator[str]:
    """A `tapeworks serve` that is ready; stopped in the end, whatever happens."""
    command = [sys.executable, "-m", "tapeworks.cli.main", "serve", "--port", "0", "--data-dir", str(data)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TAPEWORKS_")}
    with (FOLDER / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield ready(process, data)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    if code:
        raise SystemExit(f"tapeworks serve ended with {code}")


def ready(process: subprocess.Popen[bytes], data: Path) -> str:
    """The address, once /readyz answers 200."""
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"tapeworks serve ended with {process.returncode}")
        try:
            url = str(json.loads((data / "server.json").read_text())["url"])
            if httpx.get(f"{url}/readyz").status_code == 200:
                return url
        except (FileNotFoundError, httpx.TransportError):
            pass
        time.sleep(0.2)
    raise SystemExit(f"not ready after {READY_SECONDS} s: see {FOLDER / 'serve.log'} and {data / 'logs'}")


def each_change() -> Any:
    """Prints a job where its state, or every fifth epoch, changes."""
    told: list[object] = []

    def show(job: Job) -> None:
        now = (job.state, job.progress.epoch // 5)
        if now not in told:
            told.append(now)
            print(f"  {line(job)}")

    return show


def load_in_a_fresh_python(bundle: Path) -> int:
    """The exit code of the bundle's own load.py, run where Tapeworks cannot be imported; it prints what it compared."""
    command = [sys.executable, "-I", "-c", IN_A_FRESH_PYTHON, str(bundle / "load.py")]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(command, cwd=bundle, env=environment, timeout=300).returncode


def report(job: Job, bundle: Path, loaded: int) -> int:
    """What was found, in a few lines; 0 if all of it is right."""
    certificate = json.loads((bundle / "certificate.json").read_text())
    print(f"verified before it was published: {json.dumps(certificate.get('checks', certificate), sort_keys=True)}")
    accuracy = job.metrics["test_sparse_categorical_accuracy"]
    print(f"held-out accuracy {accuracy:.4f} (at least {WANTED} is asked for)")
    if loaded or accuracy < WANTED:
        print("the demo failed")
        return 1
    print(f"the demo is done; the bundle is {bundle.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
