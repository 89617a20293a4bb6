"""The order of a dict argument, in which a model makes its layers, survives from the spec to the reloaded model."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks.components.loading import load_components, load_installed
from tapeworks_workers.engine.checkpoints.snapshot import Snapshot, read_values, write_values
from tests.support.tiers import some
from tests.workers.engine.conftest import exported, trained

SOURCE = '''
    import keras
    import tensorflow as tf
    from tapeworks import component


    @component("ordered/Heads", example={"inputs": tf.TensorSpec([None, 4], tf.float32)})
    class Heads(keras.Model):
        """Layers in lists, dicts and tuples inside each other, one of them in two places."""

        def __init__(self, widths: list[int] | None = None, heads: dict[str, int] | None = None, **kwargs):
            super().__init__(**kwargs)
            widths, heads = widths or [5, 5], heads or {"b": 1, "a": 2}
            widths.append(3)  # the author's own list: what the config says must not follow
            self.blocks = [{"dense": keras.layers.Dense(w), "norm": keras.layers.BatchNormalization()} for w in widths]
            self.heads = {name: [keras.layers.Dense(n), keras.layers.Dense(n)] for name, n in heads.items()}
            self.pair = (keras.layers.Dense(3), self.blocks[0]["dense"])

        def call(self, x, training=False):
            first = self.pair[1](x)
            for block in self.blocks:
                x = first if block is self.blocks[0] else block["dense"](x)
                x = block["norm"](tf.nn.tanh(x), training=training)
            x = self.pair[0](x) + x
            parts = [layers[1](layers[0](x)) for layers in self.heads.values()]
            return tf.reduce_sum(tf.concat(parts, -1), -1, keepdims=True)
'''
load_installed()
ELEMENT = (tf.TensorSpec([None, 4], tf.float32), tf.TensorSpec([None, 1], tf.float32))
Verify = Callable[[str, Path], dict[str, Any]]


@pytest.fixture(scope="module", autouse=True)
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("ordered") / "ordered_heads.py"
    file.write_text(textwrap.dedent(SOURCE).lstrip())
    load_components([file])
    return file


def batches() -> list[Any]:
    generator = np.random.default_rng(3)
    x = generator.standard_normal((64, 4)).astype(np.float32)
    return [(x[at : at + 16], x[at : at + 16, :1]) for at in range(0, 64, 16)]


def spec(heads: dict[str, int]) -> dict[str, Any]:
    return {
        "data": {"source": "iris", "pipeline": [{"op": "batch", "batch_size": 16}]},
        "model": {"component": "ordered/Heads", "config": {"widths": [6, 5], "heads": heads}},
        "optimizer": {"component": "keras/SGD", "config": {"learning_rate": 0.01}},
        "loss": "keras/MeanSquaredError",
    }


OTHER_SIZES, ONE_SIZE = {"z": 2, "a": 3}, {"z": 2, "a": 2}


@pytest.mark.slow
@pytest.mark.parametrize("heads", some([OTHER_SIZES, ONE_SIZE], OTHER_SIZES.__eq__))
def test_heads_keep_their_own_weights(heads: dict[str, int], tmp_path: Path, verify: Verify) -> None:
    assembly = trained(spec(heads), element=ELEMENT, data=batches())
    draft = exported(assembly, tmp_path / "bundle", data=batches())
    manifest = json.loads((draft.folder / "manifest.json").read_text())
    assert list(manifest["spec"]["models"]["model"]["config"]["heads"]) == ["z", "a"]
    for verifier in ("reload", "certify"):
        answer = verify(verifier, draft.folder)
        assert answer["ok"], answer
    model = assembly.models["model"]
    again = keras.models.load_model(draft.folder / "models" / "model.keras")
    assert again.get_config()["heads"] == heads
    assert again.get_config()["widths"] == [6, 5]
    for name in heads:
        for ours, theirs in zip(model.heads[name], again.heads[name], strict=True):
            np.testing.assert_array_equal(ours.kernel, theirs.kernel)


@pytest.mark.slow
def test_the_order_decides_which_weights_a_head_starts_from() -> None:
    """Plain Keras with the same seed makes the layers in the dict's order, and so does the job."""
    first = trained(spec({"z": 2, "a": 2}), element=ELEMENT, data=batches()).models["model"]
    other = trained(spec({"a": 2, "z": 2}), element=ELEMENT, data=batches()).models["model"]
    np.testing.assert_array_equal(first.heads["z"][0].kernel, other.heads["a"][0].kernel)
    np.testing.assert_array_equal(first.heads["a"][1].kernel, other.heads["z"][1].kernel)


@pytest.mark.parametrize("damage", ["other variables", "no file"])
def test_state_that_does_not_fit_is_a_mismatch_and_no_checkpoint(
    damage: str, bundle: Path, tmp_path: Path, verify: Verify
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    state = folder / "training_state"
    if damage == "no file":
        (state / "values.npz").unlink()
    else:
        values = read_values(state)
        kernel = next(name for name in values.values if name.endswith("kernel"))
        kept = {name: value for name, value in values.values.items() if name != kernel}
        write_values(Snapshot(kept, values.counters), state)
    failure = verify("certify", folder)["failure"]
    assert failure["code"] == "reload_mismatch"
    assert failure["message"].startswith("the training state of the bundle ")
    assert "checkpoint" not in failure["message"] + failure["hint"]
