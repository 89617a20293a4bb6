"""A message names the part of the job, the user's own line and what to do, whoever noticed the mistake first."""

from pathlib import Path
from typing import Any

import pytest

from tapeworks.components.loading import load_components
from tapeworks.components.registry import registry
from tests.support.paths import LAB
from tests.support.trainings import BATCH, attempt, job

PARTS = LAB / "message_parts.py"
load_components([PARTS])
SUPER = "Call super().__init__(**kwargs) as the first statement of __init__"


def layers(name: str) -> dict[str, Any]:
    return {"component": "sequential", "config": {"layers": [{"component": name}]}}


CASES: dict[str, tuple[dict[str, Any], str, str, str]] = {
    # name → changes of the spec, message, hint, line
    "mistaken/Layer": (
        {"model": layers("mistaken/Layer")},
        "/models/model/config/layers/0: mistaken/Layer: UninitialisedLayer.__init__ does not call super().__init__()",
        SUPER, "def __init__",
    ),
    "mistaken/Model": (
        {"model": "mistaken/Model"},
        "/models/model: mistaken/Model: UninitialisedModel.__init__ does not call super().__init__()",
        SUPER, "def __init__",
    ),
    "mistaken/Metric": (
        {"metrics": ["mistaken/Metric"]},
        "/metrics/model/0: mistaken/Metric: UninitialisedMetric.__init__ does not call super().__init__()",
        SUPER, "def __init__",
    ),
    "mistaken/Loss": (
        {"loss": "mistaken/Loss"},
        "/losses/model: mistaken/Loss: UninitialisedLoss.__init__ does not call super().__init__()",
        SUPER, "def __init__",
    ),
    "mistaken/Optimizer": (
        {"optimizer": "mistaken/Optimizer"}, "forgot to call `super().__init__()`", SUPER, "self.rate = rate",
    ),
    "mistaken/Outer": (
        {"model": layers("mistaken/Outer")}, "_Helper.__init__ does not call super().__init__()", SUPER, "",
    ),
    "mistaken/Worst": (
        {"metrics": ["mistaken/Worst"]},
        "Worst.update_state(self, y_true: Any, y_pred: Any) -> None takes no sample_weight, which Keras passes",
        "Write def update_state(self, y_true, y_pred, sample_weight=None) in the component", "def update_state",
    ),
    "mistaken/NoResult": (
        {"metrics": ["mistaken/NoResult"]}, "NoResult does not define result()", "Define result() in NoResult.",
        '@component("mistaken/NoResult")',
    ),
    "mistaken/one_argument": (
        {"loss": "mistaken/one_argument"},
        "loss 'mistaken/one_argument' on y of shape (None,) and outputs of shape (None, 3): TypeError: one_argument() "
        "takes 1 positional argument but 2 were given",
        "", '@component("mistaken/one_argument"',
    ),
    "mistaken/NoCall": (
        {"model": layers("mistaken/NoCall")}, "Layer NoCall does not have a `call` method implemented", "",
        '@component("mistaken/NoCall")',
    ),
    "mistaken/Untimely": (
        {"callbacks": ["mistaken/Untimely"]},
        "callbacks/0, 'mistaken/Untimely': TypeError: Untimely.on_epoch_end() takes 3 positional arguments but 4",
        "Define it as on_epoch_end(self, epoch, logs, run) in Untimely.", "def on_epoch_end",
    ),
    "mistaken/Misfit": (
        {"evaluators": ["mistaken/Misfit"], "data": {"validation": 0.2}},
        "evaluators/0, 'mistaken/Misfit': ValueError: ", "", "tf.zeros([2, 9])",
    ),
    "mistaken/Lost": (
        {"data": {"source": "mistaken/Lost"}}, "RuntimeError: the connection is lost", "", "raise Runtime",
    ),
    "mistaken/Wide": (
        {"model": layers("mistaken/Wide")}, "are 4 and 7 in MatMul with input shapes: [?,4], [7,3].", "", "tf.matmul",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_message_names_the_part_and_the_users_own_line(name: str, tmp_path: Path) -> None:
    changes, message, hint, line = CASES[name]
    failure = failure_of(tmp_path, **changes)
    assert message in failure["message"]
    assert failure["code"] in ("component_error", "invalid_spec")
    assert failure["hint"].startswith(hint)
    said = failure["message"] + failure["hint"] + str(failure["location"])
    assert not [part for part in ("\x1b", "\n", "site-packages", "defect of Tapeworks") if part in said]
    if line:
        assert failure["location"]["component"] == name
        assert failure["location"]["file"] == str(PARTS)
        assert line in PARTS.read_text().splitlines()[failure["location"]["line"] - 1]


def test_a_loss_of_keras_is_named_and_not_the_step_that_calls_it(tmp_path: Path) -> None:
    failure = failure_of(tmp_path, loss="keras/CategoricalCrossentropy")
    assert failure["message"].startswith("loss 'keras/CategoricalCrossentropy' on y of shape (None,) and outputs of")
    assert failure["location"] == {"file": None, "line": None, "component": "keras/CategoricalCrossentropy"}


def test_a_shape_that_a_python_function_forgot(tmp_path: Path) -> None:
    failure = failure_of(tmp_path, data={"pipeline": [{"op": "map", "function": "mistaken/shapeless"}, BATCH]})
    assert failure["code"] == "invalid_data"
    assert "call set_shape" in failure["hint"]


def test_the_tail_holds_the_users_lines_and_no_stack_of_tensorflow(tmp_path: Path) -> None:
    tail = failure_of(tmp_path, data={"source": "mistaken/Lost"})["traceback_tail"]
    assert "raise RuntimeError" in tail or "message_parts.py" in tail
    assert "site-packages" not in tail
    assert len(tail.splitlines()) < 10


def test_every_part_is_used() -> None:
    used = {*CASES, "mistaken/shapeless", "mistaken/Mixing", "mistaken/Wide4"}
    assert {one.name for one in registry if one.name.startswith("mistaken/")} == used


def failure_of(folder: Path, **changes: Any) -> dict[str, Any]:
    """Of a whole attempt: what a runner's own frames would hide is seen."""
    failure: dict[str, Any] = attempt(job(**changes), folder)[-1]["failure"]
    return failure
