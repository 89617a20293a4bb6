"""The traps of docs/guide/dtypes.md, sparse.md and ragged.md: an example with one thing wrong, validated by tracing."""

import json
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from tapeworks.components.loading import load_components
from tapeworks.spec.parsing import parse_spec
from tapeworks_workers.engine.data.pipeline import build_data
from tests.support.paths import ROOT
from tests.support.trainings import BATCH, attempt, job, numbers

EXAMPLES = ROOT / "examples"
MISTAKES = """
import numpy as np
import tensorflow as tf

from tapeworks import Source, component


@component("wrong/WithTotal")
def with_total(x, y):
    total = x["price"] * x["pieces"]
    return {**x, "total": total[:, tf.newaxis] / 100.0}, y


@component("wrong/Noise")
class Noise(Source):
    def dataset(self):
        random = np.random.default_rng(0)
        return tf.data.Dataset.from_tensor_slices((random.normal(size=(200, 4)), random.integers(0, 2, 200)))


@component("wrong/Scaled")
def scaled(x):
    return x * tf.constant(np.array([1.0, 2.0, 3.0, 4.0]))
"""


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the mistakes; the examples' own components are loaded too."""
    file = tmp_path_factory.mktemp("wrong") / "wrong_orders.py"
    file.write_text(MISTAKES)
    load_components([file, EXAMPLES / "dtypes" / "acme_orders.py", EXAMPLES / "pipelines" / "acme_transforms.py"])
    return file


def example(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads((EXAMPLES / name).read_text())
    return spec


def validated(spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    frames = attempt(parse_spec(spec), folder, kind="validate", data_roots=[EXAMPLES / "data"])
    return frames[-1]


@pytest.mark.slow
def test_a_missing_cast_is_told_with_its_line_and_its_mend(wrong: Path, tmp_path: Path) -> None:
    spec = example("dtypes/narrow_labels.json")
    spec["data"]["pipeline"][-1]["function"] = "wrong/WithTotal"
    failure = validated(spec, tmp_path)["failure"]
    assert failure["code"] == "dtype_mismatch"
    assert failure["message"] == (
        "Mul got uint8 where float32 is needed: put tf.cast(…, tf.float32) around the uint8 tensor"
    )
    line = MISTAKES.splitlines().index('    total = x["price"] * x["pieces"]') + 1
    assert (failure["location"]["file"], failure["location"]["line"]) == (str(wrong), line)
    spec["data"]["pipeline"][-1]["function"] = "acme/WithTotal"
    told = validated(spec, tmp_path / "mended")
    assert told["outcome"] == "succeeded", told["failure"]
    labels = {"field": "y", "kind": "dense", "shape": [None], "dtype": "int8"}
    assert labels in told["result"]["element_spec"]


@pytest.mark.slow
def test_float64_from_numpy_is_told_and_a_cast_mends_it(wrong: Path, tmp_path: Path) -> None:
    spec = example("dtypes/float64.json")
    spec["training"]["precision"] = "float32"
    spec["data"] = {"source": "wrong/Noise", "pipeline": [BATCH]}
    failure = validated(spec, tmp_path)["failure"]
    assert failure["code"] == "float64_input"
    assert "x of the training split is float64, the job trains in float32" in failure["message"]
    spec["data"]["pipeline"].append({"op": "cast", "dtype": "float32", "field": "x"})
    assert validated(spec, tmp_path / "cast")["outcome"] == "succeeded"
    spec["data"] = {"source": numbers(), "pipeline": [BATCH, {"op": "map", "function": "wrong/Scaled", "field": "x"}]}
    assert validated(spec, tmp_path / "map")["failure"]["code"] == "float64_input"


@pytest.mark.slow
def test_layers_that_take_no_ragged_or_sparse_input_are_named_with_what_to_put_before_them(tmp_path: Path) -> None:
    spec = example("ragged/gestures.json")
    layers = spec["model"]["config"]["layers"]
    for name in ("GRU", "Dense"):
        layer = {"component": f"keras/{name}", "config": {"units": 4}}
        spec["model"]["config"]["layers"] = [layer, layers[-1]]
        failure = validated(spec, tmp_path / name)["failure"]
        assert failure["code"] == "invalid_spec"
        assert failure["message"] == f"{name} takes no RaggedTensor"
        assert "ragged_to_dense" in failure["hint"]
    spec = example("sparse/ratings.json")
    spec["model"]["config"]["layers"].insert(0, {"component": "keras/Dropout", "config": {"rate": 0.1}})
    failure = validated(spec, tmp_path / "sparse")["failure"]
    assert (failure["code"], failure["message"]) == ("invalid_spec", "Dropout takes no SparseTensor")
    assert "sparse_dense" in failure["hint"]


def test_a_map_is_traced_and_runs_in_parallel_as_the_machine_allows(wrong: Path) -> None:
    mapped = {"op": "map", "function": "acme/Speckle", "field": "x"}
    data = build_data(job(data={"source": numbers(50), "pipeline": [mapped, BATCH]}))
    variant = tf.data.experimental.to_variant(data.training.dataset(0))
    graph = tf.compat.v1.GraphDef.FromString(tf.raw_ops.DatasetToGraphV2(input_dataset=variant).numpy())
    nodes = {node.name: node for node in graph.node}
    (parallel,) = [node for node in graph.node if node.op == "ParallelMapDatasetV2"]
    (calls,) = [nodes[name] for name in parallel.input if nodes[name].attr["dtype"].type == tf.int64.as_datatype_enum]
    assert tf.make_ndarray(calls.attr["value"].tensor) == tf.data.AUTOTUNE
    (function,) = [one for one in graph.library.function if one.signature.name == parallel.attr["f"].func.name]
    operations = {node.op for node in function.node_def}
    called = {node.attr["f"].func.name for node in function.node_def if "f" in node.attr}
    operations |= {node.op for one in graph.library.function if one.signature.name in called for node in one.node_def}
    assert "StatelessRandomNormalV2" in operations, "graph operations, seeded by the element"
    assert "PyFunc" not in operations
