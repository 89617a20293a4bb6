"""Built-in losses and metrics in whole trainings: the engine's checks, epochs, splits, accumulation and bundles."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics

from tests.support.trainings import job, mlp, numbers, trained
from tests.workers.engine.conftest import CLASSES, exported
from tests.workers.engine.conftest import job as small_job
from tests.workers.engine.conftest import trained as trained_once

METRICS: list[Any] = [
    {"component": "recall_at_k", "config": {"k": 2}},
    {"component": "expected_calibration_error", "config": {"bins": 5}},
    {"component": "confusion_matrix", "config": {"classes": 3}},
    {"component": "macro_f_beta", "config": {"classes": 3}},
]


def test_metrics_are_of_one_epoch_and_of_all_its_examples(tmp_path: Path) -> None:
    """Weights stay as they are, so every epoch has the values of the whole split: 80 and 20 in batches of 30.

    Gradients are accumulated over two of them; metrics see each.
    """
    spec = job(
        data={"source": numbers(), "validation": 0.2, "pipeline": [{"op": "batch", "batch_size": 30}]},
        optimizer={"component": "keras/SGD", "config": {"learning_rate": 0.0}},
        training={"epochs": 3, "gradient_accumulation": 2},
        metrics=METRICS,
    )
    result = trained(spec, tmp_path)
    for prefix, split, size in (("", result.data.training, 80), ("val_", result.data.validation, 20)):
        assert split is not None
        batches = [(np.asarray(x), np.asarray(y)) for x, y in split.dataset(0)]
        y = np.concatenate([one for _, one in batches])
        assert len(y) == size
        scores = result.assembly.models["model"](np.concatenate([one for one, _ in batches])).numpy()
        counts = sklearn.metrics.confusion_matrix(y, scores.argmax(-1), labels=range(3))
        expected = {f"confusion_matrix_true_{i}_predicted_{j}": counts[i, j] for i in range(3) for j in range(3)}
        expected["recall_at_k"] = sklearn.metrics.top_k_accuracy_score(y, scores, k=2, labels=range(3))
        for epoch in result.events("epoch"):
            found = {name: epoch["logs"][prefix + name] for name in expected}
            assert found == pytest.approx(expected, abs=1e-6)
        errors = result.history(f"{prefix}expected_calibration_error")
        assert errors == pytest.approx([errors[0]] * 3, abs=1e-6)
        assert 0 < errors[0] < 1
    assert result.events("trace")[0]["count"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "outputs"),
    [
        ({"component": "triplet", "config": {"mining": "hard", "margin": 0.5}}, 2),
        ("nt_xent", 2),
        ("dice", 3),
        ("tversky", 3),
        ("wasserstein", 1),
        ("hinge_gan", 1),
        ("non_saturating_gan", 1),
        ("contrastive", 1),
        ("wing", 1),
    ],
)
def test_it_trains_on_labels_of_one_dimension(tmp_path: Path, loss: Any, outputs: int) -> None:
    """y is (n,), outputs are (n, 1), or fewer than there are labels: neither a broadcast nor a label out of range."""
    spec = job(data={"source": numbers(size=25)}, model=mlp(outputs=outputs), loss=loss, training={"epochs": 1})
    assert np.isfinite(trained(spec, tmp_path).history("loss")).all()


@pytest.mark.slow
def test_a_bundle_with_them_comes_back(acme: Path, tmp_path: Path, verify: Any) -> None:
    loss = {"component": "triplet", "config": {"margin": 0.4, "distance": "cosine"}}
    metrics = [
        {**one, "config": {key: CLASSES if key == "classes" else value for key, value in one["config"].items()}}
        for one in METRICS
    ]
    draft = exported(trained_once(small_job(loss=loss, metrics=metrics)), tmp_path / "bundle")
    for verifier in ("reload", "certify"):
        answer = verify(verifier, draft.folder)
        assert answer["ok"], answer
    assert answer["report"]["step"]["bit_equal"] is True
