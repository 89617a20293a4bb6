"""Which devices a job runs on: `resources.gpus`, and the logical CPU devices that a worker without GPUs may offer."""

from __future__ import annotations

import os

import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure
from tapeworks.spec.job_spec import JobSpec
from tapeworks_workers.engine.devices.devices import Devices
from tapeworks_workers.machine.devices import LOGICAL


def configure() -> None:
    """Divide the CPU into the logical devices that the environment names, before TensorFlow's runtime starts."""
    wanted = int(os.environ.get(LOGICAL, "0"))
    cpu = tf.config.list_physical_devices("CPU")[0]
    if wanted > 1 and tf.config.get_logical_device_configuration(cpu) is None:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * wanted)


def devices_of(spec: JobSpec) -> Devices:
    """The devices of a job's steps. Raises JobFailure `not_supported` where the runner has fewer than the job wants."""
    wanted = spec.resources.gpus or 1
    if wanted == 1:
        return Devices()
    kind = "CPU" if LOGICAL in os.environ else "GPU"
    names = [f"{kind}:{index}" for index in range(len(tf.config.list_logical_devices(kind)))]
    if len(names) < wanted:
        raise JobFailure(
            FailureCode.NOT_SUPPORTED,
            f"resources.gpus is {wanted}, and TensorFlow finds {len(names)} {kind} devices in the job's process",
            hint="Check the worker's driver with `tapeworks doctor`, or set resources.gpus to 1.",
        )
    return Devices(names[:wanted])
