"""What a runner sets in TensorFlow before anything is built, and what it tells of where it runs."""

from __future__ import annotations

import platform
from typing import Any

import keras
import tensorflow as tf

from tapeworks.spec import JobSpec


def prepare(spec: JobSpec) -> None:
    """Memory growth on GPUs (a verifier needs room beside the runner), and deterministic operations if asked for."""
    for device in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(device, True)
    if spec.training.deterministic:
        tf.config.experimental.enable_op_determinism()


def lineage(spec: JobSpec) -> dict[str, Any]:
    """Versions, device and seed, for the job's record."""
    gpus = [tf.config.experimental.get_device_details(device) for device in tf.config.list_physical_devices("GPU")]
    return {
        "versions": {"python": platform.python_version(), "tensorflow": tf.__version__, "keras": keras.__version__},
        "device": {
            "kind": "gpu" if gpus else "cpu",
            "names": [str(gpu.get("device_name", "GPU")) for gpu in gpus] or [platform.machine()],
        },
        "seed": spec.training.seed,
    }
