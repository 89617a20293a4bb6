"""`tapeworks init`, `tapeworks example`, `submit` without a file: what is written, and nothing is overwritten."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tapeworks.cli.examples import example_specs, files_of_example
from tapeworks.cli.main import app
from tapeworks.spec.parsing import parse_spec
from tests.support.hand_worker import HandWorker, spec
from tests.support.paths import ROOT
from tests.tapeworks.cli.conftest import Tapeworks


def run(*arguments: str, expect: int = 0) -> Result:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == expect, done.output
    return done


def test_init_writes_a_project_and_says_how_it_runs(tmp_path: Path) -> None:
    folder = tmp_path / "my project"
    told = run("init", str(folder)).stdout
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*")) == [
        "flowers.csv", "job.json", "my_losses.py", "tests/test_my_losses.py",
    ]  # fmt: skip
    assert f"tapeworks serve --components '{folder}' --data-root '{folder}'" in told
    job = json.loads((folder / "job.json").read_text())
    parse_spec(job)
    rows = list(csv.DictReader((folder / "flowers.csv").read_text().splitlines()))
    assert {row["species"] for row in rows} == set(job["data"]["source"]["config"]["classes"])
    assert f'"{job["loss"]["component"]}"' in (folder / "my_losses.py").read_text()


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text("mine")
    refused = run("init", str(tmp_path), expect=8)
    assert "job.json already exists" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["job.json"], "all of it, or nothing"
    assert (tmp_path / "job.json").read_text() == "mine"
    (tmp_path / "job.json").unlink()
    run("init", str(tmp_path))
    assert "wrote" not in run("init", str(tmp_path)).stdout, "what is there already is left"


def test_an_example_brings_its_components_and_data(tmp_path: Path) -> None:
    told = run("example", "tables/weather", "-o", str(tmp_path)).stdout
    assert (tmp_path / "data/seattle-weather.csv").read_bytes() == (
        ROOT / "examples/data/seattle-weather.csv"
    ).read_bytes()
    assert f"--data-root {tmp_path / 'data'}" in told
    run("example", "own_loss/job", "-o", str(tmp_path))
    assert (tmp_path / "acme_losses.py").exists()
    told = run("example", "continue/finetune.json", "-o", str(tmp_path)).stdout
    assert (tmp_path / "pretrain.json").exists()
    assert "First submit pretrain.json" in told
    assert "is not an example" in run("example", "no/such", expect=2).stderr


def test_examples_are_listed_and_all_in_the_wheel() -> None:
    listed = run("example").stdout
    maker = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert maker is not None
    assert maker.loader is not None
    module = importlib.util.module_from_spec(maker)
    maker.loader.exec_module(module)
    packed = set(module.example_files(ROOT / "examples"))
    names = example_specs()
    assert len(names) > 70
    for name in names:
        assert name in listed
        assert set(files_of_example(name).values()) <= packed, name
    assert not [path for path in packed if path.suffix == ".pyc" or path.name == "make.py"]


def test_every_data_file_of_an_example_is_found() -> None:
    for name, path in example_specs().items():
        if '"files":' in path.read_text():
            assert any(target.startswith("data/") for target in files_of_example(name)), name


def test_submit_takes_the_job_of_this_folder(
    tapeworks: Tapeworks, hand: HandWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "tapeworks init" in tapeworks("submit", expect=2).stderr.replace("\n", " ")
    (tmp_path / "job.json").write_text(json.dumps(spec(name="here")))
    assert hand.job(tapeworks("submit").stdout.strip())["name"] == "here"
