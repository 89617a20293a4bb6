"""The main job from end to end, on this machine: `make demo`.

Starts `tapeworks serve` on a free port with a folder of its own, submits digits_focal.json, shows its
progress, downloads the bundle, and loads it in a fresh Python in which `tapeworks` cannot be imported.
Ends with 0 only if the held-out accuracy is at least 0.95 and the loaded model is the trained one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from examples.serving import served
from tapeworks import Client
from tapeworks.bundle import check, extract
from tapeworks.schemas.jobs import Job, State

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "demo"
WANTED = 0.95
TOLERANCE = 1e-5
JOB_SECONDS = 600


def main() -> int:
    """The demo; its exit code."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    began = time.monotonic()
    with served(FOLDER) as url, Client(url) as client:
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
    """The exit code of reload.py, run where Tapeworks cannot be imported; prints what it compared."""
    command = [sys.executable, "-I", str(Path(__file__).with_name("reload.py")), str(bundle)]
    done = subprocess.run(command, timeout=300, capture_output=True, text=True)
    print(json.loads(done.stdout)["text"] if done.stdout else done.stderr, end="")
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
