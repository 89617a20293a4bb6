"""A user's own file: served, trained with, changed while the server runs."""

import shutil
from pathlib import Path

import pytest

import tapeworks
from tapeworks.schemas.jobs import ComponentInfo, State
from tests.support.paths import ROOT
from tests.support.serving import eventually, serving, spec

OWN_LOSS = ROOT / "examples" / "own_loss"
SECOND = '''
from tapeworks import component


@component("acme/halve")
def halve(x, y):
    """Half of the features."""
    return x / 2.0, y
'''


HOSTILE = {
    "acme_ends": ("import os\nos._exit(1)\n", "ends the process with exit status 1"),
    "acme_waits": ("import time\ntime.sleep(600)\n", "did not end within 15 s"),
    "acme_patches": ("import keras\nkeras.layers.Dense.call = lambda self, x: 0 * x\n", "Dense.call"),
}
"""Files that would end or change the process that all jobs are started from."""
DIES = """
import os
import keras
from tapeworks import component


@component("acme/Dies", example={"inputs": {"shape": [None, 4]}})
class Dies(keras.layers.Layer):
    def call(self, x):
        os._exit(1)


@component("acme/Lives", example={"inputs": {"shape": [None, 4]}})
class Lives(keras.layers.Layer):
    def call(self, x):
        return x
"""


@pytest.mark.slow
def test_files_that_end_block_or_patch_are_refused_and_the_others_are_served(tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(OWN_LOSS, own, ignore=shutil.ignore_patterns("__pycache__"))
    for name, (text, _) in HOSTILE.items():
        (own / f"{name}.py").write_text(text)
    (own / "acme_dies.py").write_text(DIES)
    limit = {"TAPEWORKS_WORKER_COMPONENT_SECONDS": "15"}
    with serving(tmp_path / "data", "--components", str(own), "--cpu-slots", "1", environment=limit) as served:
        (worker,) = served.client.workers()
        refused = {one.name: one for one in worker.refused}
        assert set(refused) == {*(f"{name}.py" for name in HOSTILE), "acme/Dies"}
        for name, (_, reason) in HOSTILE.items():
            assert reason in refused[f"{name}.py"].reason
            assert refused[f"{name}.py"].hint
        assert "ended the process with exit status 1" in refused["acme/Dies"].reason
        assert served.client.component("layer", "acme/Lives").workers
        job = served.client.wait(served.client.submit(own / "job.json").id, 240)
        assert job.state is State.SUCCEEDED, job.failure
        assert job.metrics["test_sparse_categorical_accuracy"] > 0.9, "Dense is Keras' own"
        log = (served.data / "logs" / "worker.log").read_text()
        assert all(f"{name}.py" in log for name in HOSTILE)
        assert log.count("worker ready") == 1


@pytest.mark.slow
def test_the_example_is_served_trained_and_loaded_again_when_it_changes(tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(OWN_LOSS, own, ignore=shutil.ignore_patterns("__pycache__"))
    with serving(tmp_path / "data", "--components", str(own), "--cpu-slots", "1") as served:
        first = served.client.component("loss", "acme/SmoothedCrossEntropy")
        assert first.workers
        job = served.client.wait(served.client.submit(own / "job.json").id, 240)
        assert job.state is State.SUCCEEDED, job.failure
        assert job.metrics["test_sparse_categorical_accuracy"] > 0.9
        models = tapeworks.load(served.client.download(job.id, tmp_path))
        assert models["model"].loss.smoothing == 0.05

        file = own / "acme_losses.py"
        file.write_text(file.read_text().replace("smoothing: float = 0.1", "smoothing: float = 0.2"))
        (own / "acme_more.py").write_text(SECOND)

        def changed() -> ComponentInfo | None:
            served_now = {component.name: component for component in served.client.components()}
            loss = served_now[first.name]  # at no moment is it gone
            return loss if loss.digest != first.digest and "acme/halve" in served_now else None

        now = eventually(changed, 60, "the changed file is served")
        properties = now.config_schema["properties"]
        assert isinstance(properties, dict)
        assert "0.2" in str(properties["smoothing"])
        mapped = spec(pipeline=[{"op": "map", "function": "acme/halve"}], loss="acme/SmoothedCrossEntropy")
        job = served.run(mapped)
        assert job.state is State.SUCCEEDED, job.failure
