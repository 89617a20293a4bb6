"""Parts of the fault table's jobs: one keeps a pace without using the CPU, others die or ask for too much memory."""

import os
import resource
import signal

import tensorflow as tf
from tensorflow.python.data.experimental.ops import testing

from tapeworks import Source, TrainingStep, component


@component("faults/paced", kind="dataset_function")
class Paced:
    """Each batch takes so many milliseconds; the iterator can be saved."""

    batched = True

    def __init__(self, milliseconds: float = 3.0):
        self.milliseconds = milliseconds

    def __call__(self, dataset):
        return dataset.apply(testing.sleep(int(self.milliseconds * 1000)))


@component("faults/Poison")
class Poison(Source):
    """Kills the process that asks for its data."""

    def __init__(self, harmless: bool = True):
        self.harmless = harmless

    def dataset(self):
        if not self.harmless:
            os.kill(os.getpid(), signal.SIGKILL)
        return tf.data.Dataset.from_tensor_slices((tf.zeros([64, 2]), tf.zeros([64], tf.int64)))


@component("faults/Hoarder")
class Hoarder(Source):
    """Wants more memory than its process may have."""

    def __init__(self, mebibytes: int = 1, limit: int = 512):
        self.mebibytes, self.limit = mebibytes, limit

    def dataset(self):
        pages = int(open("/proc/self/statm").read().split()[0])
        room = pages * resource.getpagesize() + self.limit * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (room, resource.getrlimit(resource.RLIMIT_AS)[1]))
        hoard = bytearray(self.mebibytes * 2**20)
        return tf.data.Dataset.from_tensor_slices((tf.zeros([64, 2]), tf.zeros([64], tf.int64))).take(len(hoard))


@component("faults/Hungry")
class Hungry(TrainingStep):
    """Asks TensorFlow for a tensor that no machine holds."""

    losses = ("model",)

    def train_step(self, batch, run):
        x, y = batch
        with tf.GradientTape() as tape:
            loss = run.losses["model"](y, run.models["model"](x, training=True))
            rows = tf.shape(x, tf.int64)[0]
            loss += 0.0 * tf.reduce_sum(tf.fill([rows * 2**36], tf.reduce_mean(x)))
        run.minimize("model", loss, tape)
        return {"loss": loss}
