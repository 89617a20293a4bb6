"""A job with `resources.gpus: 2` on a worker that offers two logical CPU devices: as POST takes it, to its bundle."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.serving import Served, serving, spec

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("two-devices")
    with serving(folder, environment={"TAPEWORKS_WORKER_LOGICAL_DEVICES": "2"}) as served:
        yield served


def test_a_job_on_two_devices_ends_with_a_verified_model(served: Served) -> None:
    one, two = (served.run(spec(resources={"gpus": gpus}, export={})) for gpus in (1, 2))
    assert one.state.value == two.state.value == "succeeded", two.failure
    assert two.diagnostics["devices"] == ["CPU:0", "CPU:1"]
    assert "devices" not in one.diagnostics
    assert two.model is not None
    assert two.model.verified
    assert two.metrics.keys() == one.metrics.keys()
    assert two.metrics["loss"] == pytest.approx(one.metrics["loss"], abs=1e-5)
