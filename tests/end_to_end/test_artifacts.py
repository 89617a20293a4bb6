"""What callbacks and a black box leave, over HTTP."""

from pathlib import Path

import pytest
import tensorflow as tf

from tapeworks.schemas.jobs import State
from tests.support.paths import LAB, ROOT
from tests.support.serving import serving, spec

EXAMPLE = ROOT / "examples" / "callback_image"
PARTS = LAB / "epoch_parts.py"


@pytest.mark.slow
def test_files_of_callbacks_and_of_a_failure(tmp_path: Path) -> None:
    options = ("--components", str(EXAMPLE), "--components", str(PARTS), "--cpu-slots", "1")
    with serving(tmp_path / "data", *options) as served:
        job = served.client.wait(served.client.submit(EXAMPLE / "job.json").id, 240)
        assert job.state is State.SUCCEEDED, job.failure
        assert job.metrics["test_gallery_recall_1"] > 0.8
        assert job.metrics["test_linear_probe_accuracy"] > 0.8
        paths = [artifact.path for artifact in served.client.artifacts(job.id)]
        assert {"model.tar.gz", "weights/epoch-001.png", "weights/epoch-002.png"} < set(paths)
        assert any(path.startswith("tensorboard/events.out.tfevents.") for path in paths)
        image = served.client.download_artifact(job.id, "weights/epoch-002.png", tmp_path / "image.png")
        assert tf.io.decode_png(Path(image).read_bytes()).shape == (8 * 9 * 6, 8 * 9 * 6, 1)

        step = {"component": "lab/LogOfNegative", "config": {"at": 137}}
        job = served.run(spec(step=step, loss=None, callbacks=["lab/Diary"], training={"epochs": 4}))
        assert job.state is State.FAILED
        assert job.failure is not None
        assert job.failure.code == "non_finite"
        assert "not finite at step 137" in job.failure.message
        assert job.progress.step == 137
        paths = [artifact.path for artifact in served.client.artifacts(job.id)]
        assert paths == ["blackbox.tar", "diary/epoch-1.txt", "diary/epoch-2.txt"]
        box = served.client.download_artifact(job.id, "blackbox.tar", tmp_path / "blackbox.tar")
        told = served.tapeworks("replay", str(box)).stdout
        assert "step 137, epoch 3: loss is nan" in told
        assert "the first value that is not finite: Log" in told
        assert "components/epoch_parts.py" in told
