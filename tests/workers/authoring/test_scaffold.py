"""Every kind of package that `tapeworks component new` writes does what it says, as it stands."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tapeworks.errors import ComponentError
from tapeworks.spec.references import Kind
from tapeworks_workers.authoring.attempts import Attempts
from tapeworks_workers.authoring.component_test import rehearse_job
from tapeworks_workers.authoring.scaffold import names_of, write_package
from tapeworks_workers.engine.admission.component_test import Finding, try_components
from tests.support.tiers import some

KINDS = list(Kind)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, Path]:
    root = tmp_path_factory.mktemp("packages")
    return {kind: write_package(f"acme/New{kind.title().replace('_', '')}", kind, root / kind) for kind in KINDS}


@pytest.fixture(scope="module")
def findings(packages: dict[Kind, Path]) -> dict[str, Finding]:
    return {one.kind: one for one in try_components(list(packages.values()))}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_its_component_is_found_without_fault(findings: dict[str, Finding], kind: Kind) -> None:
    assert findings[kind] == Finding(f"acme/{_target(kind)}", kind.value)


@pytest.mark.slow
@pytest.mark.parametrize("kind", some(KINDS, {Kind.LOSS, Kind.STEP, Kind.SOURCE}.__contains__))
def test_its_job_would_train(
    findings: dict[str, Finding], packages: dict[Kind, Path], attempts: Attempts, kind: Kind
) -> None:
    job = packages[kind] / "job.json"
    assert f'"acme/{_target(kind)}"' in job.read_text()
    assert rehearse_job(job, attempts=attempts) == Finding(str(job), "job")


def _target(kind: Kind) -> str:
    return f"New{kind.title().replace('_', '')}"


@pytest.mark.slow
def test_its_own_tests_pass(packages: dict[Kind, Path], tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, packages.values()))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["--import-mode=importlib", *map(str, packages.values())]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    tests = [node for package in packages.values() for node in _tests(package)]
    assert f"{len(tests)} passed" in done.stdout
    assert len(tests) >= len(KINDS)


def _tests(package: Path) -> list[str]:
    (file,) = package.glob("tests/test_*.py")
    functions = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)]
    return [function.name for function in functions if function.name.startswith("test_")]


def test_linters_have_nothing_to_say(packages: dict[Kind, Path]) -> None:
    folder = str(packages[Kind.LOSS].parent)
    ruff = [sys.executable, "-m", "ruff"]
    rules = "E,F,I,B,UP,PT,RUF,T20,S"
    for options in (
        ["check", "--isolated", "--line-length", "120", "--select", rules, "--ignore", "S101"],
        ["check", "--isolated"],
        ["format", "--check", "--isolated", "--line-length", "120"],
    ):
        done = subprocess.run([*ruff, *options, "--no-cache", folder], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_package_is_an_ordinary_project_with_the_entry_point(packages: dict[Kind, Path]) -> None:
    package = packages[Kind.LOSS]
    files = sorted(str(file.relative_to(package)) for file in package.rglob("*") if file.suffix in (".py", ".toml"))
    assert files == ["acme_new_loss.py", "pyproject.toml", "tests/test_acme_new_loss.py"]
    assert (
        '[project.entry-points."tapeworks.components"]\nacme_new_loss = "acme_new_loss"'
        in (package / "pyproject.toml").read_text()
    )
    assert json.loads((package / "job.json").read_text())["loss"]["component"] == "acme/NewLoss"


def test_names() -> None:
    names = names_of("acme-labs/HTTPLoss")
    assert (names.module, names.target) == ("acme_labs_http_loss", "HTTPLoss")


@pytest.mark.parametrize("name", ["Loss", "acme/", "/Loss", "acme/my-loss", "acme/2nd", "keras/Loss", "acme/class", ""])
def test_a_name_that_is_none(name: str, tmp_path: Path) -> None:
    with pytest.raises(ComponentError, match="such as acme/WarmLoss"):
        write_package(name, Kind.LOSS, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("mine")
    with pytest.raises(ComponentError, match="exists and is not empty: name another with --folder"):
        write_package("acme/Loss", Kind.LOSS, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.py"]
