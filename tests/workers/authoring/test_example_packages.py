"""The packages of examples/packages: small, right, side by side in one process, and found where they are installed."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from examples.serving import EXAMPLES, component_folders
from tapeworks.components.registry import registry
from tapeworks.spec.references import Kind
from tapeworks_workers.authoring.attempts import Attempts
from tapeworks_workers.authoring.component_test import rehearse_job
from tapeworks_workers.engine.admission.component_test import Finding, try_components
from tests.support.tiers import some

FOLDER = EXAMPLES / "packages"
PACKAGES = sorted(file.parent for file in FOLDER.glob("*/pyproject.toml"))
JOBS = sorted([*FOLDER.glob("*.json"), *FOLDER.glob("*/*.json")])
LINES = 60


@pytest.fixture(scope="module")
def findings() -> list[Finding]:
    return try_components(PACKAGES)


def test_there_is_one_of_each_and_the_examples_serve_them() -> None:
    assert [package.name for package in PACKAGES] == ["tinydistil", "tinygan", "tinymetric", "tinyvae", "tinywgan"]
    assert set(PACKAGES) <= set(component_folders())


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_each_is_less_than_sixty_lines_of_code(package: Path) -> None:
    (module,) = package.glob("*.py")
    assert module.stem == package.name
    lines = [line.strip() for line in module.read_text().splitlines()]
    assert 20 < sum(bool(line) and not line.startswith("#") for line in lines) < LINES


@pytest.mark.slow
def test_their_components_are_found_without_fault(findings: list[Finding]) -> None:
    assert {one.name: (one.problems, one.notes) for one in findings} == {one.name: ([], []) for one in findings}
    assert {one.name.partition("/")[0] for one in findings} == {package.name for package in PACKAGES}


def test_two_classes_of_one_name_are_two_components(findings: list[Finding]) -> None:
    first, second = (registry.get(Kind.LAYER, f"{package}/Encoder").target for package in ("tinyvae", "tinymetric"))
    assert first.__name__ == second.__name__ == "Encoder"
    assert first is not second


@pytest.mark.slow
@pytest.mark.parametrize(
    "job", some(JOBS, lambda job: job.parent == FOLDER, ids=lambda job: str(job.relative_to(FOLDER)))
)
def test_their_jobs_would_train(findings: list[Finding], attempts: Attempts, job: Path) -> None:
    finding = rehearse_job(job, attempts=attempts)
    assert finding.problems == []
    assert [note for note in finding.notes if "starts from" not in note] == []


@pytest.mark.slow
def test_their_own_tests_pass(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, PACKAGES))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
    command += ["--rootdir", str(tmp_path), "-c", os.devnull, *map(str, PACKAGES)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# ── installed ────────────────────────────────────────────────────────────────────────────────────

INSTALLED = """
    import sys
    from tapeworks.components.registry import registry
    from tapeworks.components.loading import load_installed
    from tapeworks.errors import DuplicateComponent

    found = {one.name: one.file for one in load_installed()}
    print(found["tinymetric/MultiSimilarity"])
    sys.path.append(sys.argv[1])
    try:
        load_installed()
    except DuplicateComponent as error:
        print(error)
    load_installed(keep_going=True)
    print(registry.refused[0].name)
"""


def installed(module: Path, name: str, site: Path) -> Path:
    """Put a module there as pip does, with the metadata that announces it."""
    site.mkdir()
    shutil.copyfile(module, site / f"{name}.py")
    info = site / f"{name}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[tapeworks.components]\n{name} = {name}\n")
    return site


@pytest.mark.slow
def test_an_installed_package_is_found_and_another_of_its_name_and_version_is_refused(tmp_path: Path) -> None:
    site = installed(FOLDER / "tinymetric" / "tinymetric.py", "tinymetric", tmp_path / "site")
    other = installed(site / "tinymetric.py", "tinymetric_fork", tmp_path / "other")
    fork = other / "tinymetric_fork.py"
    fork.write_text(fork.read_text().replace("margin: float = 0.5", "margin: float = 0.4"))
    command = [sys.executable, "-c", textwrap.dedent(INSTALLED), str(other)]
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    file, error, refused = done.stdout.splitlines()
    assert file == str(site / "tinymetric.py")
    assert "'tinymetric/Encoder' is already registered by tinymetric.Encoder" in error
    assert "tinymetric_fork.Encoder must have a different name" in error
    assert refused == "tinymetric_fork"
