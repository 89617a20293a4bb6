"""The steps of docs/guide/tables.md on the real file, and what the exported model learned and answers."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from examples.serving import EXAMPLES, ROOT
from tapeworks.bundle import extract
from tapeworks.components.loading import load_installed
from tapeworks.schemas.jobs import State
from tapeworks.spec.parsing import parse_spec
from tests.support.job_files import build_data, set_data_roots
from tests.support.serving import Served

PAGE = (ROOT / "docs" / "guide" / "tables.md").read_text()


@pytest.fixture(scope="module")
def penguins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the package, in a folder of its own."""
    (package,) = importlib.util.find_spec("palmerpenguins").submodule_search_locations  # type: ignore[union-attr]
    folder = tmp_path_factory.mktemp("penguins")
    return Path(shutil.copy(Path(package, "data", "penguins.csv"), folder / "penguins.csv"))


def training_rows(spec: dict[str, object]) -> pd.DataFrame:
    """The rows of the job's training split, as pandas reads them."""
    load_installed()
    set_data_roots([EXAMPLES / "data"])
    data = build_data(parse_spec(spec))
    set_data_roots([])
    return pd.concat(pd.DataFrame({name: value.numpy() for name, value in x.items()}) for x, _ in data.plain())


@pytest.mark.slow
def test_the_page_from_the_push_to_the_answer(served: Served, penguins: Path, tmp_path: Path) -> None:
    told = json.loads(served.tapeworks("data", "push", str(penguins), "--name", "penguins", "--json").stdout)
    described = {column["name"]: (column["dtype"], column["unreadable"]) for column in told["content"]["columns"]}
    for name, dtype, note in re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (\w+) \| (.*) \|$", PAGE, re.MULTILINE):
        for column in re.findall(r"\w+", name):
            assert described[column][0] == dtype, column
            assert (described[column][1] is not None) == bool(note), column
    assert described["body_mass_g"][1] in PAGE

    spec = json.loads((EXAMPLES / "tables" / "penguins.json").read_text())
    pushed = json.loads(json.dumps(spec).replace('"penguins.csv"', f'"{told["id"]}"'))
    job = served.client.wait(served.client.submit(pushed).id, 240)
    assert job.state is State.SUCCEEDED, job.failure
    assert job.metrics["test_accuracy"] >= 0.97, job.metrics
    (event,) = [event for event in served.client.events(job.id) if event.type == "class_names"]
    assert json.dumps(event.data["class_names"]) in PAGE

    folder = extract(served.client.download(job.id, tmp_path / "model.tar.gz"), tmp_path / "model")
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    script = "\n".join([*blocks, "print(penguins.get_layer('scaled').mean.numpy().tolist())"])
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    served_names, keras_names, medians, means = done.stdout.splitlines()
    assert served_names == keras_names == re.findall(r"```text\n(.*?)\n```", PAGE, re.DOTALL)[0]
    rows = training_rows(spec)
    assert len(rows) == 275
    columns = spec["model"]["config"]["nodes"][0]["from"]
    measured = rows[columns]
    np.testing.assert_allclose(np.array(medians.strip("[]").split(), float), measured.median(), rtol=1e-6)
    filled = measured.fillna(measured.median())
    np.testing.assert_allclose(np.ravel(json.loads(means)), filled.mean(), rtol=1e-5)
