"""What a runner sets in TensorFlow before anything is built, and what it tells of where it runs."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from functools import cache
from typing import Any

import keras
import tensorflow as tf

from tapeworks.spec.job_spec import JobSpec
from tapeworks_workers.machine.xla_cache import processor


def prepare(spec: JobSpec) -> None:
    """Memory growth on GPUs (a verifier needs room beside the runner), and deterministic operations if asked for."""
    for device in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(device, True)
    if spec.training.deterministic:
        tf.config.experimental.enable_op_determinism()


@contextlib.contextmanager
def as_traced() -> Iterator[None]:
    """Graphs that are called in the block run as they were traced: to optimise one takes longer than a call of it."""
    option = "disable_meta_optimizer"
    before = tf.config.optimizer.get_experimental_options().get(option, False)
    tf.config.optimizer.set_experimental_options({option: True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({option: before})


def has_gpu() -> bool:
    """Whether this process computes on one."""
    return bool(tf.config.list_physical_devices("GPU"))


@cache
def fingerprint() -> dict[str, str]:
    """What the bits of a computation depend on beside the job: processor, GPUs, threads and builds."""
    gpus = [tf.config.experimental.get_device_details(device) for device in tf.config.list_physical_devices("GPU")]
    threads = (tf.config.threading.get_intra_op_parallelism_threads(), os.cpu_count())
    return {
        "processor": processor(),
        "gpus": ", ".join(str(gpu.get("device_name", "GPU")) for gpu in gpus),
        "threads": "/".join(map(str, threads)),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }


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
