"""Packages as strangers write them: what gets in, what is told, and two that clash on one worker."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from qualification.security.attacked_server import House
from tapeworks.errors import Rejected
from tapeworks.schemas.jobs import Job, State
from tests.support.paths import ROOT

PLAIN = """
import keras

from tapeworks import component


@component("stranger/Swish")
class Swish(keras.layers.Layer):
    def __init__(self, beta=1.0, **kwargs):
        super().__init__(**kwargs)
        self.beta = beta

    def call(self, x):
        return x * keras.ops.sigmoid(self.beta * x)


@component("stranger/HuberLike")
class HuberLike(keras.losses.Loss):
    def __init__(self, delta=1.0, **kwargs):
        super().__init__(**kwargs)
        self.delta = delta

    def call(self, y_true, y_pred):
        error = keras.ops.abs(y_true - y_pred)
        return keras.ops.mean(keras.ops.where(error < self.delta, 0.5 * error**2, error), -1)
"""
WRONG = """
import keras
import numpy as np

from tapeworks import component


@component("wrong/Numpy", example={"config": {}, "inputs": keras.KerasTensor((None, 4))})
class Numpy(keras.layers.Layer):
    def call(self, x):
        return x * np.asarray(x).mean()


@component("wrong/Forgets")
class Forgets(keras.losses.Loss):
    def __init__(self, scale: float = 2.0, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale

    def get_config(self):
        return {"name": self.name}

    def from_config(config):
        return Forgets(scale=1.0)

    def call(self, y_true, y_pred):
        return self.scale * keras.ops.mean(keras.ops.square(y_true - y_pred), -1)


@component("plainname")
class Plain(keras.layers.Layer):
    def call(self, x):
        return x
"""
BROKEN = "import tapeworks\nimport not_installed_anywhere\n"
SAME = '''
import keras
from tapeworks import component

@component("{name}/Loss")
class Loss(keras.losses.Loss):
    """Of {name}."""
    def __init__(self, scale: float = {scale}, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale
    def call(self, y_true, y_pred):
        labels = keras.ops.one_hot(keras.ops.cast(y_true, "int32"), 10)
        return self.scale * keras.ops.categorical_crossentropy(labels, y_pred, from_logits=True)
'''


def spec(loss: str, **training: Any) -> dict[str, Any]:
    return {
        "data": {"source": "digits", "pipeline": [{"op": "batch", "batch_size": 64}]},
        "model": {"component": "mlp", "config": {"hidden": [8], "outputs": 10}},
        "optimizer": "keras/SGD", "loss": loss, "training": {"epochs": 1, "seed": 1, **training},
    }  # fmt: skip


def pushed(house: House, path: Path) -> dict[str, Any]:
    done = house.served.tapeworks("component", "push", str(path), "--json", expect=None)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_plain_keras_classes_in_a_folder_get_in(house: House, tmp_path: Path) -> None:
    folder = tmp_path / "strangers-parts"
    folder.mkdir()
    (folder / "parts.py").write_text(PLAIN)
    (folder / "README.md").write_text("mine")
    package = pushed(house, folder)
    assert package["state"] == "admitted", package
    assert (package["name"], len(package["components"])) == ("strangers-parts", 2)
    again = pushed(house, folder)
    assert again["id"] == package["id"], "the same files are the same version"
    (folder / "parts.py").write_text(PLAIN + "\n# changed\n")
    assert pushed(house, folder)["version"] != package["version"]


@pytest.mark.slow
def test_everything_that_keeps_one_out_is_told_in_one_answer(house: House, tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(WRONG)
    package = pushed(house, tmp_path / "wrong.py")
    assert package["state"] == "refused"
    told = {one["name"]: one["reason"] for one in package["refused"]}
    assert told.keys() == {"wrong/Numpy", "wrong/Forgets", "plainname"}, told
    assert "wrong/plainname" in told["plainname"]
    (tmp_path / "broken.py").write_text(BROKEN)
    package = pushed(house, tmp_path / "broken.py")
    (one,) = package["refused"]
    assert "not_installed_anywhere" in one["reason"]
    assert "broken.py, line 2" in one["reason"]


@pytest.mark.slow
def test_what_ends_the_process_or_has_nothing_is_told(house: House, tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text("import os\nfrom tapeworks import component\nos._exit(3)\n")
    package = pushed(house, tmp_path / "ends.py")
    assert (package["state"], package["failure"]["code"]) == ("refused", "component_error")
    (tmp_path / "empty.py").write_text("x = 1\n")
    (one,) = pushed(house, tmp_path / "empty.py")["refused"]
    assert "register no component" in one["reason"]
    with pytest.raises(Rejected) as refused:
        house.client.packages.push(_with(tmp_path / "dep", 'dependencies = ["torch"]'))
    assert "no worker has the dependency torch" in str(refused.value)


def _with(folder: Path, line: str) -> Path:
    folder.mkdir()
    (folder / "parts.py").write_text(PLAIN)
    points = '[project.entry-points."tapeworks.components"]\nparts = "parts"\n'
    (folder / "pyproject.toml").write_text(f'[project]\nname = "dep"\nversion = "1"\n{line}\n{points}')
    return folder


@pytest.mark.slow
def test_two_packages_of_one_module_and_class_name_work_at_once(house: House, tmp_path: Path) -> None:
    for name, scale in (("left", 1.0), ("right", 10.0)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "same.py").write_text(SAME.format(name=name, scale=scale))
        assert pushed(house, folder)["state"] == "admitted"
    ended: dict[str, Job] = {}

    def run(name: str) -> None:
        ended[name] = house.client.wait(house.client.submit(spec(f"{name}/Loss")).id, 200)

    running = [threading.Thread(target=run, args=(name,)) for name in ("left", "right")]
    for one in running:
        one.start()
    for one in running:
        one.join()
    assert {job.state for job in ended.values()} == {State.SUCCEEDED}, {n: j.failure for n, j in ended.items()}
    assert ended["right"].metrics["loss"] > 3 * ended["left"].metrics["loss"]
    begun = max(job.started_at for job in ended.values() if job.started_at is not None)
    assert begun < min(job.finished_at for job in ended.values() if job.finished_at is not None), "both at once"


@pytest.mark.thorough
def test_what_component_new_writes_and_an_example_get_in(house: House, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    house.served.tapeworks("component", "new", "fresh/WarmLoss", "--kind", "loss", "--folder", str(fresh))
    for folder in (fresh, ROOT / "examples" / "packages" / "tinyvae"):
        package = pushed(house, folder)
        assert package["state"] == "admitted", package
