"""Small real jobs, and the real zygote that verifies what they export."""

import asyncio
import json
import os
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tapeworks.components.loading import load_components, load_installed
from tapeworks.errors import JobFailure
from tapeworks.spec.parsing import parse_spec
from tapeworks_workers.engine.export.export import BundleDraft, export_bundle
from tapeworks_workers.engine.step.assembly import Assembly, assemble
from tapeworks_workers.engine.step.compiled_step import compile_train_step
from tapeworks_workers.processes.base_zygote import failure_of
from tapeworks_workers.processes.handles import become_subreaper
from tapeworks_workers.processes.launcher import ChildTask, ForkLauncher
from tapeworks_workers.verification.certificate import COMPARISONS

FEATURES, CLASSES, BATCH = 8, 3, 16
ELEMENT = (tf.TensorSpec([None, FEATURES], tf.float32), tf.TensorSpec([None], tf.int64))

ACME = '''
    """A user's own parts, in one file, with a module beside it."""

    import keras
    import numpy as np
    import tensorflow as tf
    from acme_constants import SCALE
    from tapeworks import TrainingStep, component


    @component("acme/Mish")
    class Mish(keras.layers.Layer):
        def __init__(self, beta: float = 1.0, **kwargs):
            super().__init__(**kwargs)
            self.beta = beta

        def call(self, x):
            return SCALE * x * keras.ops.tanh(keras.ops.softplus(self.beta * x))


    @component("acme/Sampler")
    class Sampler(keras.layers.Layer):
        """Draws random numbers in inference too, from a seed that .keras does not keep."""

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.seeds = keras.random.SeedGenerator(3)

        def call(self, x):
            return x + keras.random.normal(keras.ops.shape(x), seed=self.seeds)


    @component("acme/Flooding")
    class Flooding(keras.losses.Loss):
        def __init__(self, level: float = 0.1, **kwargs):
            super().__init__(**kwargs)
            self.level = level

        def call(self, y_true, y_pred):
            loss = keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
            return keras.ops.abs(loss - self.level) + self.level


    @component("acme/Seen")
    class Seen(keras.metrics.Metric):
        def __init__(self, weight: float = 1.0, name: str = "seen", **kwargs):
            super().__init__(name=name, **kwargs)
            self.weight = weight
            self.total = self.add_variable((), initializer="zeros", name="total")

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.total.assign_add(self.weight * keras.ops.cast(keras.ops.size(y_true), "float32"))

        def result(self):
            return self.total.value


    @component("acme/L3")
    class L3(keras.regularizers.Regularizer):
        def __init__(self, l3: float = 0.01):
            self.l3 = l3

        def __call__(self, weights):
            return self.l3 * keras.ops.sum(keras.ops.abs(weights) ** 3)


    @component("acme/Sloppy")
    class Sloppy(keras.layers.Layer):
        """Keeps what it knows in a Python attribute."""

        def build(self, shape):
            self.offset = np.random.default_rng().normal(size=shape[-1]).astype("float32")

        def call(self, x):
            return x + self.offset


    @component("acme/Forgetful")
    class Forgetful(keras.layers.Layer):
        """Its config forgets `factor`."""

        def __init__(self, factor: float = 1.0, **kwargs):
            super().__init__(**kwargs)
            self.factor = factor

        def call(self, x):
            return x * self.factor

        def get_config(self):
            return super().get_config()


    @component("acme/Stubborn")
    class Stubborn(Forgetful):
        """Rebuilds itself in a way of its own, which cannot work."""

        def __init__(self, factor: float, **kwargs):
            super().__init__(factor, **kwargs)

        @classmethod
        def from_config(cls, config):
            return cls(**config)


    @component("acme/Words")
    class Words(keras.Model):
        """Subclassed, several named inputs, one of them of integers, layers that number themselves."""

        def __init__(self, units: int = 4):
            super().__init__()
            self.embedding = keras.layers.Embedding(10, units)
            self.drop = keras.layers.Dropout(0.5)
            self.out = keras.layers.Dense(3)

        def call(self, inputs, training=False):
            words = keras.ops.mean(self.embedding(inputs["words"]), axis=1)
            return self.out(self.drop(keras.ops.concatenate([words, inputs["other"]], axis=-1), training=training))


    @component("acme/Heads")
    class Heads(keras.Model):
        """Two named outputs."""

        def __init__(self):
            super().__init__()
            self.kind = keras.layers.Dense(3)
            self.size = keras.layers.Dense(1)

        def call(self, x):
            return {"kind": self.kind(x), "size": self.size(x)}


    @component("acme/Lost")
    class Lost(Words):
        """Does not say how it was built, so a reload has nothing to put the weights into."""

        def get_build_config(self):
            return None


    @component("acme/Moody")
    class Moody(keras.losses.Loss):
        """Its state is no variable: another process has another."""

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.mood = float(np.random.default_rng().uniform(0.5, 1.5))

        def call(self, y_true, y_pred):
            loss = keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
            return self.mood * loss


    @component("acme/Autoencoder")
    class Autoencoder(TrainingStep):
        """One optimizer owns two models; noise comes from the run."""

        models = ("encoder", "decoder")
        optimizers = {"both": ("encoder", "decoder")}

        def __init__(self, code: int = 4):
            self.code = code

        def build(self, run):
            x = next(iter(run.datasets["training"]))[0]
            self.scale = tf.Variable(tf.math.reduce_std(x), trainable=False)

        def input_spec(self, role, element, models):
            return tf.TensorSpec([None, self.code]) if role == "decoder" else element[0]

        def train_step(self, batch, run):
            x = batch[0]
            with tf.GradientTape() as tape:
                code = run.models["encoder"](x + run.random_normal(tf.shape(x)), training=True)
                loss = tf.reduce_mean((run.models["decoder"](code, training=True) - x / self.scale) ** 2)
            run.minimize("both", loss, tape)
            return {"loss": loss}

        def signatures(self, models):
            @tf.function(input_signature=[tf.TensorSpec([None, 8], name="x")])
            def reconstruct(x):
                return models["decoder"](models["encoder"](x, training=False), training=False)

            return {"encoder": {"reconstruct": reconstruct}}
'''


@pytest.fixture(scope="session")
def acme(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in components and a user's own file, registered in this process."""
    folder = tmp_path_factory.mktemp("acme")
    (folder / "acme_constants.py").write_text("SCALE = 1.5\n")
    (folder / "LICENSE").write_text("Anybody may.\n")
    file = folder / "acme_parts.py"
    file.write_text(textwrap.dedent(ACME).lstrip())
    load_installed()
    load_components([file])
    return file


def layers_of(*custom: dict[str, Any]) -> dict[str, Any]:
    """A sequential model with dropout and custom layers in the middle."""
    dense = {"units": 16, "kernel_regularizer": {"component": "acme/L3", "config": {"l3": 0.02}}}
    layers = [
        {"component": "keras/Dense", "config": dense},
        *custom,
        {"component": "keras/Dropout", "config": {"rate": 0.5}},
        {"component": "keras/Dense", "config": {"units": CLASSES}},
    ]
    return {"component": "sequential", "config": {"layers": layers}}


def job(**changes: Any) -> dict[str, Any]:
    """A spec with a custom layer, loss, metric and regularizer."""
    return {
        "data": {"source": "iris", "pipeline": [{"op": "batch", "batch_size": BATCH}]},
        "model": layers_of({"component": "acme/Mish", "config": {"beta": 1.7}}),
        "optimizer": {"component": "keras/Adam", "config": {"learning_rate": 0.01}},
        "loss": {"component": "acme/Flooding", "config": {"level": 0.05}},
        "metrics": [{"component": "acme/Seen", "config": {"weight": 2.0}}, "keras/SparseCategoricalAccuracy"],
        **changes,
    }


def batches(count: int = 5) -> list[tuple[np.ndarray, np.ndarray]]:
    """Batches of numbers, the last one short."""
    generator = np.random.default_rng(7)
    sizes = [BATCH] * (count - 1) + [BATCH // 2]
    return [
        (generator.standard_normal((n, FEATURES)).astype(np.float32), generator.integers(0, CLASSES, n)) for n in sizes
    ]


def trained(spec: dict[str, Any], *, element: Any = ELEMENT, data: Sequence[Any] | None = None) -> Assembly:
    """The job after a step on each batch."""
    data = batches() if data is None else data
    datasets = {"training": tf.data.Dataset.from_tensors(data[1])}
    assembly = assemble(parse_spec(spec), element, datasets=datasets)
    step = compile_train_step(assembly)
    for batch in data:
        step(batch)
    return assembly


def exported(assembly: Assembly, folder: Path, *, data: Sequence[Any] | None = None) -> BundleDraft:
    """Its bundle."""
    data = batches() if data is None else data
    return export_bundle(
        assembly,
        compile_train_step(assembly, eager=assembly.spec.training.execution.plan == "eager"),
        counters={"step": 5},
        batches=data,
        folder=folder,
        metrics={"loss": 0.5},
        lineage={"source": "x"},
    )


@pytest.fixture(scope="session")
def bundle(acme: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a plain job, not to be changed."""
    return exported(trained(job()), tmp_path_factory.mktemp("export") / "bundle").folder


Fork = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def fork(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fork]:
    """Run a function in a fork of a real base zygote: `fork(target, bar=…, **arguments)` gives its result frame."""
    become_subreaper()
    with asyncio.Runner() as loop:
        launcher = ForkLauncher()
        loop.run(launcher.start())

        async def result(work: ChildTask) -> dict[str, Any]:
            child = await (await launcher._living_base()).launch(work)
            try:
                answer = await child.result()
                status = await child.handle.wait()
                printed = os.read(child.stderr, 1 << 16).decode(errors="replace")
            finally:
                child.close()
            assert answer is not None, f"the process ended with {status}: {printed}"
            return answer

        def run(target: str, *, bar: bool, **arguments: Any) -> dict[str, Any]:
            return loop.run(result(ChildTask(target, arguments, frame=True, bar=bar)))

        yield run
        loop.run(launcher.close())


@pytest.fixture(scope="session")
def verify(fork: Fork) -> Callable[[str, Path], dict[str, Any]]:
    """`verify("reload" | "certify", bundle)`: the process that loads it, as the agent starts it, and the comparison."""
    from tapeworks_workers.processes.launcher import verification

    def run(which: str, folder: Path) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as name:
            arguments = {"bundle": str(folder), "into": f"{name}/{which}"}
            work = verification(which, arguments, environment={}, folder=folder.parent)
            answer = fork(work.target, bar=work.bar, **work.arguments)
            if not answer["ok"]:
                return answer
            manifest = json.loads((folder / "manifest.json").read_text())
            try:
                return {"ok": True, "report": COMPARISONS[which](folder, manifest, Path(name), "cpu")}
            except JobFailure as failure:
                return {"ok": False, "failure": failure_of(failure)}

    return run
