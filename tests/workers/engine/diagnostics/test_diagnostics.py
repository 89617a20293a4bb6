"""Every mistake is told by its code, with the place in the user's source."""

import errno
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from tapeworks.components.registry import registry
from tapeworks.errors import FAILURES, FailureCode, JobFailure, Location
from tapeworks.schemas.jobs import Failure
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.data.pipeline import build_data
from tapeworks_workers.engine.diagnostics import classify
from tapeworks_workers.engine.diagnostics.source_locations import library_folders
from tests.support.paths import ROOT
from tests.support.trainings import BATCH, attempt, job, mlp, numbers, prepared, trained

MISTAKES = {
    "dtype_mismatch": ("dtype_mismatch", "tf.cast(…, tf.float32) around the int64 tensor", "ones_like(y)"),
    "float64_input": ("float64_input", "float64", "np.ones(3)"),
    "numpy_in_graph": ("numpy_in_graph", "NumPy", "np.mean(outputs)"),
    "numpy_method": ("numpy_in_graph", "numpy", "outputs.numpy()"),
    "variable_creation_in_graph": ("variable_creation_in_graph", "a variable is created", "tf.Variable(1.0)"),
    "python_control_flow": ("python_control_flow", "bool", "filter(None"),
    "undefined_in_a_branch": ("python_control_flow", "'scale'", "if outputs[0, 0] > 0"),
    "graph_tensor_leaked": ("graph_tensor_leaked", "another: <tf.Tensor", "self.leaked = "),
    "no_gradient": ("no_gradient", "reaches none of its variables", "run.minimize"),
    "component_error": ("component_error", "KeyError: 'nothing'", '{}["nothing"]'),
    "incompatible_shapes": ("invalid_spec", "3 and 4", "outputs + x"),
    "not_scalars": ("component_error", "returned 'loss' of shape", "def train_step"),
}


ONLY_ON_A_GPU = "A deterministic GPU implementation of SparseTensorDenseMatmulOp is not currently available."


def failure_of(spec: Any, folder: Path) -> dict[str, Any]:
    with pytest.raises(Exception) as caught:  # noqa: PT011 — whatever it is: what is made of it is looked at
        trained(spec, folder)
    return classify.failure(caught.value, spec=spec.document(), phase="compiling")


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_step(tmp_path: Path, mistake: str) -> None:
    code, says, line = MISTAKES[mistake]
    spec = job(step={"component": "lab/Mistaken", "config": {"mistake": mistake}}, loss=None)
    failure = failure_of(spec, tmp_path)
    validated = attempt(spec, tmp_path, kind="validate")[-1]["failure"]
    for field in ("code", "hint", "location"):
        assert validated[field] == failure[field]
    # What only the first call shows is told by the steps that a validation tries.
    assert validated["phase"] == ("rehearsing" if mistake == "graph_tensor_leaked" else "compiling")
    assert failure["code"] == code, failure
    assert says in failure["message"]
    assert failure["hint"]
    component = registry.get(Kind.STEP, "lab/Mistaken")
    assert failure["location"]["component"] == "lab/Mistaken"
    if line is not None:
        assert failure["location"]["file"] == str(component.file)
        source = Path(str(component.file)).read_text().splitlines()
        assert line in source[failure["location"]["line"] - 1]
    if mistake not in ("not_scalars", "graph_tensor_leaked"):  # their place is not in the traceback
        assert line is None or line in failure["traceback_tail"]
        assert "site-packages" not in failure["traceback_tail"]


def test_a_mistake_in_a_transform(tmp_path: Path) -> None:
    wrong = {"op": "map", "function": {"component": "class_weight", "config": {"weights": [1.0, 1.0]}}}
    failure = failure_of(job(data={"pipeline": [wrong, BATCH]}), tmp_path)
    assert failure["code"] in ("component_error", "invalid_data")
    failure = failure_of(job(data={"pipeline": [{"op": "map", "function": "lab/Half"}, BATCH]}), tmp_path)
    assert (failure["code"], failure["location"]) is not None
    assert "takes 1 positional argument but 2 were given" in failure["message"]


def test_a_mistake_in_a_layer(tmp_path: Path) -> None:
    layers = [
        {"component": "lab/Raising", "config": {"ready": False}},
        {"component": "keras/Dense", "config": {"units": 3}},
    ]
    failure = failure_of(job(model={"component": "sequential", "config": {"layers": layers}}), tmp_path)
    assert failure["code"] == "component_error"
    assert failure["message"].endswith("RuntimeError: nothing is ready")
    component = registry.get(Kind.LAYER, "lab/Raising")
    assert failure["location"]["file"] == str(component.file)
    assert failure["location"]["component"] == "lab/Raising"
    source = Path(str(component.file)).read_text().splitlines()
    assert "raise RuntimeError" in source[failure["location"]["line"] - 1]


@pytest.mark.parametrize("plan", ["loop", "steps", "eager"])
def test_an_assertion_in_a_layer_holds_while_it_is_trained(tmp_path: Path, plan: str) -> None:
    layers = [
        {"component": "lab/Bounded", "config": {"limit": 0.5}},
        {"component": "keras/Dense", "config": {"units": 3}},
    ]
    model = {"component": "sequential", "config": {"layers": layers}}
    failure = failure_of(job(model=model, training={"execution": {"plan": plan}}), tmp_path)
    assert failure["code"] == "component_error"
    assert "beyond the limit" in failure["message"]


def test_labels_that_are_texts(tmp_path: Path) -> None:
    failure = failure_of(job(data={"source": numbers(form="texts")}), tmp_path)
    assert failure["code"] == "dtype_mismatch", failure
    assert failure["message"].startswith("strings reached an operation")


def test_what_a_running_graph_says_is_told_without_its_frames() -> None:
    frames = '  File "/x/y.py", line 295, in f\n\n  File "/x/z.py", line 2, in g\n\n'
    said = "Graph execution error:\n\nDetected at node a/b defined at (most recent call last):\n"
    node = "\n\t [[{{node a/b}}]] [Op:__f_1]"
    running = tf.errors.InvalidArgumentError(None, None, said + frames + "no such thing" + node)
    assert classify.classify(running).message == "InvalidArgumentError: no such thing"


def test_one_model_for_several_inputs(tmp_path: Path) -> None:
    failure = failure_of(job(data={"source": numbers(form="named")}), tmp_path)
    assert failure["code"] == "invalid_spec"
    assert "mlp takes one tensor, the element's x is a dict of age, height, noise" in failure["message"]


def test_a_model_that_does_not_take_the_element(tmp_path: Path) -> None:
    loss = "keras/CategoricalCrossentropy"  # wants y of the outputs' shape
    failure = failure_of(job(loss=loss), tmp_path)
    assert failure["code"] == "invalid_spec"


def test_elements_of_different_shapes(tmp_path: Path) -> None:
    spec = job(data={"source": "lab/Uneven"})
    assert failure_of(spec, tmp_path)["code"] == "invalid_spec"  # a dense layer needs to know the last dimension
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        list(build_data(spec).training.dataset(0))
    failure = classify.classify(caught.value)
    assert failure.code == "invalid_data"
    assert "different shapes" in failure.message


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "storage_full"),
        (tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"), "out_of_memory"),
        (tf.errors.ResourceExhaustedError(None, None, "/x; No space left on device"), "storage_full"),
        (MemoryError(), "out_of_memory"),
        (tf.errors.UnimplementedError(None, None, ONLY_ON_A_GPU), "nondeterministic_op"),
        (tf.errors.InvalidArgumentError(None, None, "indices[3] = 12 is not in [0, 10)"), "invalid_data"),
        (tf.errors.InvalidArgumentError(None, None, "x : Tensor had NaN values"), "non_finite"),
        (tf.errors.InternalError(None, None, "something broke"), "component_error"),
        (ZeroDivisionError("of ours"), "internal"),
    ],
)
def test_errors_that_are_hard_to_cause(error: Exception, code: str) -> None:
    found = classify.classify(error)
    assert found.code == FailureCode(code)
    assert found.retryable == FAILURES[found.code].retryable


@pytest.mark.parametrize(
    "said",
    [
        "A deterministic GPU implementation of ResizeNearestNeighborGrad is not currently available.",
        "Determinism is not yet supported in GPU implementation of ResizeNearestNeighborGrad.",
        "Determinism is not yet supported for ResizeNearestNeighborGrad.",
        "Deterministic GPU implementation of ResizeNearestNeighborGrad not available.",
    ],
)
def test_what_a_gpu_says_of_an_operation_without_a_deterministic_kernel(said: str) -> None:
    found = classify.classify(tf.errors.UnimplementedError(None, None, said))
    assert found.message == f"ResizeNearestNeighborGrad does not work in a deterministic job: {said}"


def test_the_page_of_traps_names_codes_that_exist() -> None:
    page = (ROOT / "docs" / "diagnostics.md").read_text()
    named = set(re.findall(r"^### (\w+)$", page, re.MULTILINE))
    notes = {"python_print", "from_logits", "input_wait", "traced_constant", "python_state", "numbered_name"}
    notes |= {"unowned_variable", "unused_part", "nothing_trained", "zero_gradient", "inexact_resume", "left_out"}
    notes |= {"files_skipped", "files_left_out", "several_files", "mixed_splits", "split_size"}
    assert named - notes <= set(FailureCode)
    assert {code for code, _, _ in MISTAKES.values()} - {"component_error", "invalid_spec"} <= named


def test_a_failure_that_was_told_stays_as_it_is() -> None:
    told = JobFailure(FailureCode.NOT_SUPPORTED, "no", hint="wait", location=Location(component="c"))
    around = RuntimeError("around it")
    around.__cause__ = told
    assert classify.classify(around) is told
    document = classify.failure(told, spec={}, phase="x")
    again = classify.reported_failure(Failure.model_validate(document))
    assert (again.code, again.message, again.hint, again.location) == (
        told.code,
        told.message,
        told.hint,
        told.location,
    )


def test_a_partial_gradient_is_a_diagnostic(tmp_path: Path) -> None:
    layers = [{"component": "lab/Idle", "config": {}}, {"component": "keras/Dense", "config": {"units": 3}}]
    result = prepared(job(model={"component": "sequential", "config": {"layers": layers}}), tmp_path)
    (told,) = result.events("diagnostic")
    assert told["code"] == "no_gradient"
    assert told["location"]["component"] == "supervised"
    assert told["hint"]
    assert "unused" in told["message"]
    result.training.train()


def test_a_plan_that_is_not_for_the_batches_is_not_supported(tmp_path: Path) -> None:
    failure = failure_of(
        job(data={"source": numbers(40, "texts")}, training={"execution": {"plan": "fused"}}), tmp_path
    )
    assert failure["code"] == "not_supported"
    assert "y is text" in failure["message"]


def test_packages_of_another_prefix_are_a_library(tmp_path: Path) -> None:
    """A `.pth` file or PYTHONPATH adds them to sys.path; a folder of users' own modules is none."""
    packages, own = tmp_path / "venv" / "lib" / "site-packages", tmp_path / "project"
    folders = library_folders([str(packages), str(own)])
    assert str(packages) in folders
    assert str(own) not in folders
    assert tf.__file__.startswith(library_folders([]))


def test_source_lines_are_found() -> None:
    from tapeworks_workers.engine.diagnostics.source_locations import component_at

    component = registry.get(Kind.STEP, "lab/Gan")
    _, first = inspect.getsourcelines(component.target)
    assert component_at(str(component.file), first + 3) == "lab/Gan"


def focal(*, from_logits: bool) -> dict[str, Any]:
    return {"component": "focal", "config": {"from_logits": from_logits}}


def ending_in(*layers: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    listed = [{"component": f"keras/{name}", "config": config} for name, config in layers]
    return {"component": "sequential", "config": {"layers": listed}}


DENSE, SOFTMAX = ("Dense", {"units": 3}), ("Softmax", {})
IMAGE = (("Reshape", {"target_shape": [2, 2, 1]}), ("Conv2D", {"filters": 3, "kernel_size": 2}), ("Flatten", {}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "loss", "says"),
    [
        (mlp(), focal(from_logits=False), "loss 'focal' takes probabilities"),
        (mlp(), "keras/SparseCategoricalCrossentropy", "takes probabilities"),
        (ending_in(("Dense", {"units": 3, "use_bias": False})), focal(from_logits=False), "takes probabilities"),
        (ending_in(*IMAGE), focal(from_logits=False), "takes probabilities"),
        (ending_in(DENSE, SOFTMAX), focal(from_logits=True), "come from a softmax"),
        (ending_in(("Dense", {"units": 3, "activation": "softmax"})), focal(from_logits=True), "come from a softmax"),
        (ending_in(("Dense", {"units": 3, "activation": "sigmoid"})), focal(from_logits=True), "come from a sigmoid"),
        (mlp(), focal(from_logits=True), None),
        (ending_in(DENSE, SOFTMAX), focal(from_logits=False), None),
        (ending_in(DENSE, ("Activation", {"activation": "relu"})), focal(from_logits=False), None),
        (mlp(), "lab/PickedLoss", None),
    ],
)
def test_logits_where_probabilities_are_taken(tmp_path: Path, model: Any, loss: Any, says: str | None) -> None:
    result = prepared(job(model=model, loss=loss, data={"validation": 0.2}), tmp_path)
    told = result.events("diagnostic")
    assert [item["code"] for item in told] == ([] if says is None else ["from_logits"])
    assert says is None or says in told[0]["message"]
