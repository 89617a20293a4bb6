"""What the code in a bundle can do to its own certificate: nothing but compute the values that are compared."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tapeworks.bundle import check, extract
from tapeworks.errors import JobFailure
from tapeworks_workers.engine.observation import FACTS, ObservationRefused, read_archive, read_observation
from tapeworks_workers.verification.certificate import check_manifest
from tests.support.agent_stage import Stage, staged
from tests.support.tiers import some
from tests.workers.conftest import running_service

PATCHES = """
import sys
import numpy

def agree(*given, **more):
    return True

def none(*given, **more):
    return None

numpy.array_equal = numpy.allclose = agree
eyes = sys.modules.get("comparison") or sys.modules["tapeworks_workers.engine.comparison"]
eyes.first_path = eyes.first_difference = none
eyes.difference = lambda expected, actual: eyes.Difference(48, 0.0, 1.0, True)
judge = sys.modules.get("reload")
if judge is not None:
    judge._same_variables = judge._same_config = none
    judge.abs = lambda value: 0.0
"""


@pytest.fixture
def other_weights(bundle: Path, tmp_path: Path) -> Path:
    """A bundle whose model has other weights than those that were trained."""
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    file = folder / "models" / "model.keras"
    model = keras.models.load_model(file)
    model.layers[0].kernel.assign(model.layers[0].kernel * 2)
    model.save(file)
    listed(folder, "models/model.keras")
    return folder


def listed(folder: Path, *names: str) -> None:
    """Let the manifest state the digests that these files have now."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in names:
        data = (folder / name).read_bytes()
        manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def adds(folder: Path, code: str) -> None:
    """Add code to the module that the bundle brings."""
    file = folder / "components" / "acme_parts.py"
    file.write_text(file.read_text() + code)
    listed(folder, "components/acme_parts.py")


@pytest.mark.slow
def test_other_weights_are_a_mismatch(other_weights: Path, verify: Any) -> None:
    assert verify("reload", other_weights)["failure"]["code"] == "reload_mismatch"


def test_a_module_that_patches_the_comparison_proves_nothing(other_weights: Path, verify: Any) -> None:
    adds(other_weights, PATCHES)
    answer = verify("reload", other_weights)
    assert not answer["ok"], answer
    assert answer["failure"]["code"] == "reload_mismatch"


# ── by a runner, with the agent's own parts and a real service ───────────────────────────────────


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with (
        running_service(tmp_path_factory.mktemp("service"), lease_seconds=120) as service,
        staged(service, tmp_path_factory.mktemp("stage")) as found,
    ):
        yield found


def played(stage: Stage, act: str, bundle: Path, **settings: Any) -> tuple[dict[str, Any], list[str]]:
    """The job whose runner hands over this bundle, as it ended, and what the runner heard of its verification."""
    job = stage.play(act, export={}, labels={"bundle": str(bundle)}, **settings)
    return job, [note["message"] for note in stage.notes(job)]


def downloaded(stage: Stage, job: dict[str, Any], folder: Path) -> Path:
    """The published bundle."""
    archive = folder / "model.tar.gz"
    archive.write_bytes(stage.service.api.get(f"/v1/jobs/{job['id']}/model", follow_redirects=True).content)
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == job["model"]["sha256"]
    return extract(archive, folder / "model")


@pytest.mark.slow
@pytest.mark.parametrize("act", ["exports", "swaps"])
def test_what_is_published_is_what_was_sealed(stage: Stage, bundle: Path, tmp_path: Path, act: str) -> None:
    job, notes = played(stage, act, bundle)
    assert job["state"] == "succeeded", (job["failure"], notes)
    model = downloaded(stage, job, tmp_path)
    check(model)
    certificate = json.loads((model / "certificate.json").read_text())
    for name, entry in certificate["files"].items():
        data = (bundle / name).read_bytes()
        assert (model / name).read_bytes() == data
        assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    verified = job["model"]["verified"]
    assert verified["reload"]["models"]["model"]["keras"]["outputs"]["bit_equal"] is True
    assert {"acme_constants", "acme_parts"} <= set(verified["reload"]["bundle_modules"])
    assert verified["certify"]["step"]["bit_equal"] is True
    assert "code that means to deceive could have written any values" in verified["scope"]
    assert certificate["scope"] == verified["scope"]


def writes(code: str) -> str:
    """Code that writes something else than what was seen, where verifier A would."""
    return f"""
import sys, os, pathlib
import numpy
def written(folder, facts, arrays):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "facts.json").write_text('{{"models": {{}}, "arrays": ["0"]}}')
    file = folder / "arrays.npy"
    {code}
if "observation" in sys.modules:
    sys.modules["observation"].write_observation = written
"""


ATTACKS = {
    "patched": (PATCHES, "other weights"),
    "enormous": (writes("file.touch(); os.truncate(file, 1 << 40)"), "at most"),
    "enormous facts": (writes("file.touch(); os.truncate(folder / 'facts.json', 1 << 40)"), "at most"),
    "pickled": (writes("numpy.save(file, numpy.array([{}]), allow_pickle=True)"), "not a plain number type"),
    "claimed": (
        writes("numpy.lib.format.write_array_header_1_0(file.open('wb'), "
               "{'descr': '<f8', 'fortran_order': False, 'shape': (1 << 40,)})"),
        "larger than the file",
    ),
    "a link": (writes("file.symlink_to('/etc/passwd')"), "cannot be opened"),
    "nothing": (writes("pass"), "cannot be opened"),
    "endless JSON": (writes("file.touch(); (folder / 'facts.json').write_text('[' * 100000)"), "not JSON"),
}  # fmt: skip


@pytest.mark.parametrize("attack", some(ATTACKS, lambda attack: attack in ("patched", "enormous", "pickled")))
def test_what_the_code_of_a_bundle_writes_is_bounded_and_checked(
    stage: Stage, other_weights: Path, attack: str
) -> None:
    code, told = ATTACKS[attack]
    adds(other_weights, code)
    job, notes = played(stage, "exports", other_weights)
    assert job["model"] is None
    assert (job["state"], job["failure"]["code"]) == ("failed", "internal")
    assert told in notes[-1], notes


def test_a_verifier_that_never_returns_is_ended(stage: Stage, other_weights: Path) -> None:
    adds(other_weights, "\nimport time\nwhile True:\n    time.sleep(1)\n")
    job, notes = played(stage, "exports", other_weights, verify_seconds=2.0)
    assert job["model"] is None
    assert "took more than 2 s" in notes[-1], notes


def test_a_verifier_that_ends_the_process_proves_nothing(stage: Stage, other_weights: Path) -> None:
    adds(other_weights, "\nimport os\nos._exit(0)\n")
    job, notes = played(stage, "exports", other_weights)
    assert job["model"] is None
    assert "status 0" in notes[-1], notes


def tolerant(manifest: dict[str, Any]) -> None:
    manifest["tolerance"] = 1e9


def without_models(manifest: dict[str, Any]) -> None:
    manifest["models"] = {}


def without_a_format(manifest: dict[str, Any]) -> None:
    manifest["models"]["model"]["keras"] = None


def without_probes(manifest: dict[str, Any]) -> None:
    manifest["models"]["model"]["probe"]["batches"] = []


def file_of_the_machine(manifest: dict[str, Any]) -> None:
    manifest["models"]["model"]["probe"]["file"] = "/etc/hostname"


STATED = {
    tolerant: "states the tolerance", without_models: "lists no model", without_a_format: "for the keras format",
    without_probes: "no probe", file_of_the_machine: "no probe",
}  # fmt: skip


@pytest.mark.parametrize("change", STATED)
def test_a_manifest_that_proves_less_is_refused(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    files = {**manifest["files"], "manifest.json": {}}
    agreed = {"files": files, "tolerance": 1e-5, "formats": ["keras", "saved_model"], "device": "cpu"}
    check_manifest(manifest, agreed)
    change(manifest)
    with pytest.raises(JobFailure, match=STATED[change]):
        check_manifest(manifest, agreed)


@pytest.mark.parametrize("name", ["load.py", "certificate.json", "models/more.keras"])
def test_a_bundle_with_another_file_than_an_export_makes_is_refused(
    stage: Stage, bundle: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    (folder / name).write_text("")
    if name == "load.py":
        listed(folder, name)
        shutil.copy(bundle / name, folder / "components" / "whole.py")
        (folder / name).write_text("from components.whole import *\n")
        listed(folder, name, "components/whole.py")
    job, notes = played(stage, "exports", folder)
    assert job["model"] is None
    assert job["state"] == "failed"
    assert name in notes[-1], notes


# ── the files that are read ──────────────────────────────────────────────────────────────────────


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", zeros=np.zeros(1 << 20))
    with pytest.raises(ObservationRefused, match="is compressed"):
        read_archive(tmp_path / "bomb.npz")
    np.savez(tmp_path / "objects.npz", objects=np.array([{}]))
    with pytest.raises(ObservationRefused, match="not a plain number type"):
        read_archive(tmp_path / "objects.npz")
    turned = np.arange(6.0).reshape(2, 3).T
    np.savez(tmp_path / "plain.npz", turned=turned, none=np.zeros(0), one=np.float32(1))
    found = read_archive(tmp_path / "plain.npz")
    np.testing.assert_array_equal(found["turned"], turned)
    assert (found["none"].shape, found["one"].shape, found["one"].dtype) == ((0,), (), np.float32)


@pytest.mark.parametrize("names", [None, ["0", "0"], {"0": 1}, [0]])
def test_facts_that_list_other_arrays_than_there_are_are_refused(tmp_path: Path, names: Any) -> None:
    (tmp_path / FACTS).write_text(json.dumps({"arrays": names}))
    np.save(tmp_path / "arrays.npy", np.zeros(3))
    with pytest.raises(ObservationRefused):
        read_observation(tmp_path)
