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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tapeworks import Client
from tapeworks.bundle import check, extract
from tapeworks.jobs import Job, State

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "demo"
WANTED = 0.95
TOLERANCE = 1e-5
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


def each_change() -> Callable[[Job], None]:
    """Prints a job where its state, or every fifth epoch, changes."""
    told: list[object] = []

    def show(job: Job) -> None:
        done = job.progress
        now = (job.state, done.epoch // 5 if job.state is State.RUNNING else 0)
        if now in told:
            return
        told.append(now)
        words = [f"  {job.state.value:10}"]
        if job.state is State.RUNNING and done.step:
            words += [f"epoch {done.epoch}/{done.epochs}", f"step {done.step}/{done.total_steps}"]
            words += [f"{name} {job.metrics[name]:.4f}" for name in ("loss", "val_loss") if name in job.metrics]
        print("  ".join(words))

    return show


def load_in_a_fresh_python(bundle: Path) -> int:
    """The exit code of the bundle's own load.py, run where Tapeworks cannot be imported; it prints what it compared."""
    command = [sys.executable, "-I", "-c", IN_A_FRESH_PYTHON, str(bundle / "load.py")]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, cwd=bundle, env=environment, timeout=300, capture_output=True, text=True)
    print(done.stdout if done.returncode == 0 else done.stdout + done.stderr, end="")
    return done.returncode


def report(job: Job, bundle: Path, loaded: int) -> int:
    """What was found, in a few lines; 0 if all of it is right."""
    verified = json.loads((bundle / "certificate.json").read_text())["verified"]
    model = verified["reload"]["models"]["model"]
    keras, saved_model = model["keras"]["outputs"], model["saved_model"]["outputs"]
    step = verified["certify"]["step"]
    accuracy = job.metrics["test_sparse_categorical_accuracy"]
    checks = {
        f"the reloaded .keras differs by {keras['max_abs_difference']:g}": keras["bit_equal"],
        f"the reloaded SavedModel differs by {saved_model['max_abs_difference']:g}": (
            saved_model["max_abs_difference"] <= TOLERANCE
        ),
        f"one more step from the training state differs by {step['max_abs_difference']:g}": step["bit_equal"],
        "the process that reloaded them had not imported Tapeworks": not verified["reload"]["tapeworks_modules"],
        "the bundle loads in a fresh Python without Tapeworks": not loaded,
        f"held-out accuracy {accuracy:.4f}, at least {WANTED}": accuracy >= WANTED,
    }
    for text, right in checks.items():
        print(f"  {'ok   ' if right else 'WRONG'} {text}")
    print(f"the bundle is {bundle.relative_to(ROOT)}" if all(checks.values()) else "the demo failed")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
