"""What an earlier version wrote is read: its database, its bundle, its checkpoint.

`stored/` holds backups of instances, each made by the version in its name: a job with a built-in and an own layer, its
bundle and two checkpoints.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import tapeworks
from tapeworks.cli.main import app
from tapeworks.schemas.jobs import State
from tests.support.serving import COMPONENTS, Served, serving

STORED = sorted((Path(__file__).parent / "stored").glob("*.tar.xz"))
BATCH = np.ones((2, 64), "float32")


@pytest.fixture(scope="module", params=STORED, ids=lambda path: path.name)
def restored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server on the data of an earlier version."""
    folder = tmp_path_factory.mktemp("stored")
    with tarfile.open(request.param) as archive:
        archive.extractall(folder, filter="data")
    done = CliRunner().invoke(app, ["restore", str(folder / "backup"), "--data-dir", str(folder / "data")])
    assert done.exit_code == 0, done.output
    with serving(folder / "data", "--components", str(COMPONENTS)) as running:
        yield running


@pytest.mark.slow
def test_a_job_and_its_bundle_are_as_they_were(restored: Served, tmp_path: Path) -> None:
    job = list(restored.client.list())[-1]
    assert job.state is State.SUCCEEDED
    assert len(restored.client.history(job.id)["val_loss"]) == 2
    model = tapeworks.load(restored.client.download(job.id, tmp_path))["model"]
    assert model(BATCH).shape == (2, 10)


def test_training_continues_from_its_checkpoint_and_its_model(restored: Served, tmp_path: Path) -> None:
    job = list(restored.client.list())[-1]
    *_, checkpoint = restored.client.checkpoints(job.id)
    document = job.spec.document()
    spec = {**document, "training": {**document["training"], "epochs": 3}, "export": None}
    continued = restored.run({**spec, "training": {**spec["training"], "initial_state": {
        "from": checkpoint.id, "restore": "all"}}})  # fmt: skip
    assert continued.state is State.SUCCEEDED, continued.failure
    pushed = restored.client.bundles.push(restored.client.download(job.id, tmp_path), name="earlier")
    again = restored.run({**spec, "training": {**spec["training"], "initial_state": {"from": pushed.id}}})
    assert again.state is State.SUCCEEDED, again.failure
