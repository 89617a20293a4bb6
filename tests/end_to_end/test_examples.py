"""The examples of the guide: those marked fast are run as jobs, POST → download → loaded again without Tapeworks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from examples.plans import compared
from examples.rows import Example, examples, rows, submit, traces
from examples.serving import EXAMPLES, ROOT
from tapeworks.bundle import extract
from tapeworks.schemas.jobs import State
from tests.support.serving import Served
from tests.support.tiers import some

FAST = [example for example in examples() if example.fast]
IN_EVERY_PLAN = {"several-models/distillation.json", "dtypes/mixed_float16.json", "sparse/ratings.json"}


@pytest.fixture(scope="module")
def known() -> dict[str, str]:
    """Example → id of its job: what others go on from is trained once."""
    return {}


@pytest.fixture(scope="module")
def bundles() -> list[Path]:
    """The bundles of the jobs that were run."""
    return []


@pytest.mark.slow
@pytest.mark.parametrize("example", FAST, ids=lambda example: example.spec)
def test_the_example_reaches_what_is_stated(
    served: Served, example: Example, known: dict[str, str], bundles: list[Path], tmp_path: Path
) -> None:
    job = served.client.wait(submit(served.client, example, known), 240)
    assert job.state is State.SUCCEEDED, job.failure
    assert example.reached(job.metrics.get(example.metric)), job.metrics
    assert traces(job, served.client) == example.traces
    bundles.append(extract(served.client.download(job.id, tmp_path / "model.tar.gz"), tmp_path / "model"))


@pytest.mark.slow
def test_their_models_load_in_fresh_processes_without_tapeworks(bundles: list[Path]) -> None:
    command = [sys.executable, "-I", str(EXAMPLES / "reload.py"), *map(str, bundles)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [answer["text"] for answer in answers if not answer["ok"]] == []
    assert len(answers) == len(bundles) == len(FAST)


def test_every_row_has_a_page_and_a_fast_example_and_every_spec_a_row() -> None:
    listed = {example.spec for example in examples()}
    for row in rows():
        assert (ROOT / "docs" / "guide" / f"{row}.md").is_file()
        assert any(example.fast for example in examples() if example.row == row), f"no example of {row} is fast"
    assert {str(file.relative_to(EXAMPLES)) for file in EXAMPLES.rglob("*.json") if "data" not in file.parts} == listed


@pytest.mark.slow
@pytest.mark.parametrize(
    "example", some(FAST, lambda example: example.spec in IN_EVERY_PLAN, ids=lambda example: example.spec)
)
def test_every_plan_that_can_hold_it_trains_it_alike(served: Served, example: Example, known: dict[str, str]) -> None:
    """All examples: `make plans`."""
    cells, well = compared(served.client, example, known)
    assert well, cells
