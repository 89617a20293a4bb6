"""Sealing: the certificate, archives that are the same bytes each time, sizes, and the way back into Keras."""

import json
import shutil
import tarfile
from pathlib import Path

import keras
import numpy as np
import pytest

import tapeworks
from tapeworks.bundle import check, extract
from tapeworks.errors import BundleError, FailureCode, JobFailure
from tapeworks_workers.engine.export.packaging import seal
from tests.workers.engine.conftest import batches


@pytest.fixture
def draft(bundle: Path, tmp_path: Path) -> Path:
    """A bundle that may be changed."""
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    return folder


def names(archive: Path) -> list[str]:
    with tarfile.open(archive) as tar:
        return tar.getnames()


@pytest.mark.slow
def test_the_same_files_make_the_same_archives(draft: Path) -> None:
    first = seal(draft, {"reload": {"models": 1}}, name="first")
    (draft / "components" / "__pycache__").mkdir()
    (draft / "components" / "__pycache__" / "x.pyc").write_bytes(b"")
    second = seal(draft, {"reload": {"models": 1}}, name="second")
    assert first.bundle.read_bytes() == second.bundle.read_bytes()
    assert first.formats == ["keras", "saved_model"]
    assert sorted(first.parts) == ["keras", "saved_model"]
    assert first.verified["reload"] == {"models": 1}
    assert set(first.verified) == {"reload", "scope", "versions", "device", "tolerance"}
    assert names(first.bundle) == sorted(names(first.bundle))
    assert "saved_model/model/1/saved_model.pb" in names(first.parts["saved_model"])
    assert not any(name.startswith("models/") for name in names(first.parts["saved_model"]))
    assert {"models/model.keras", "load.py", "certificate.json"} <= set(names(first.parts["keras"]))


def test_a_bundle_larger_than_its_limit_is_refused(draft: Path) -> None:
    with pytest.raises(JobFailure, match=r"limits\.max_artifact_bytes allows 1000") as raised:
        seal(draft, {}, max_artifact_bytes=1000)
    assert raised.value.code is FailureCode.STORAGE_FULL
    assert raised.value.retryable is False


def test_the_archive_loads_with_the_bundles_own_classes(draft: Path) -> None:
    sealed = seal(draft, {})
    registered = dict(keras.saving.get_custom_objects())
    model = tapeworks.load(sealed.bundle)["model"]
    assert keras.saving.get_custom_objects() == registered
    mish = model.layers[1]
    assert mish.beta == 1.7
    assert type(mish) is not registered["acme>Mish"]
    x = batches()[0][0]
    again = tapeworks.load(draft, roles=["model"])["model"]
    np.testing.assert_array_equal(model(x, training=False), again(x, training=False))


def test_a_part_alone_loads(draft: Path, tmp_path: Path) -> None:
    sealed = seal(draft, {})
    models = tapeworks.load(extract(sealed.parts["keras"], tmp_path / "part"))
    assert list(models) == ["model"]


def test_a_role_that_is_not_there_is_named(draft: Path) -> None:
    with pytest.raises(BundleError, match="no Keras model 'critic'; it has model"):
        tapeworks.load(draft, roles=["critic"])


def test_the_certificate_binds_the_manifest(draft: Path) -> None:
    seal(draft, {})
    check(draft)
    manifest = json.loads((draft / "manifest.json").read_text())
    manifest["metrics"]["loss"] = 0.0
    (draft / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"does not have the digest recorded in certificate\.json"):
        check(draft)
