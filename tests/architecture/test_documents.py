"""What the documents say is so."""

import importlib.util
import json
import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest
import typer

import tapeworks
from examples.rows import examples
from tapeworks.cli.console import ExitCode
from tapeworks.cli.main import app
from tapeworks.spec.parsing import parse_spec
from tapeworks.spec.pipeline_ops import Operation
from tapeworks.spec.references import Kind
from tapeworks_workers.authoring.scaffold import write_package
from tests.support.paths import ROOT


@pytest.mark.parametrize("page", ["errors", "limits"])
def test_pages_made_from_the_code_are_up_to_date(page: str) -> None:
    maker = importlib.util.spec_from_file_location(f"make_{page}", ROOT / "docs" / f"make_{page}.py")
    assert maker is not None
    assert maker.loader is not None
    module = importlib.util.module_from_spec(maker)
    maker.loader.exec_module(module)
    assert (ROOT / "docs" / f"{page}.md").read_text() == module.page(), "run `make docs`"


def test_every_command_and_exit_code_is_documented() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    for command in typer.main.get_group(app).commands:
        assert f"`tapeworks {command}" in page
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)} == set(ExitCode)


@pytest.mark.parametrize("file", [example.path for example in examples()], ids=lambda path: path.name)
def test_the_examples_are_specs(file: Path) -> None:
    parse_spec(json.loads(file.read_text()))


def test_the_data_on_the_page_of_data_is_data() -> None:
    blocks = re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), re.DOTALL)
    assert len(blocks) >= 5
    for block in blocks:
        parse_spec({"data": json.loads(block), "model": "mlp"})


def test_every_operation_is_on_the_page_of_data() -> None:
    page = (ROOT / "docs" / "data.md").read_text()
    for operation in get_args(get_args(Operation)[0]):
        assert f"`{get_args(operation.model_fields['op'].annotation)[0]}`" in page


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))],
                         ids=lambda path: path.name)  # fmt: skip
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#]+)", prose)
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert broken == []


def test_the_code_of_the_authoring_page_is_that_of_the_examples_and_of_what_new_writes(tmp_path: Path) -> None:
    page = (ROOT / "docs/authoring.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    written = re.findall(r"`tapeworks component new (\S+) --kind (\w+)` writes", page)
    folders = [write_package(name, Kind(kind), tmp_path / kind) for name, kind in written]
    files = [*(ROOT / "examples").glob("*/*.py"), *(ROOT / "examples/packages").glob("*/*.py")]
    texts = [file.read_text() for folder in folders for file in folder.glob("*.py")]
    texts += [file.read_text() for file in files]
    assert len(blocks) == 6
    assert [block for block in blocks if not any(block in text for text in texts)] == []


def test_the_commands_of_the_authoring_page_are_commands() -> None:
    pages = [(ROOT / "docs" / name).read_text() for name in ("authoring.md", "guide/packages.md")]
    told = {words for page in pages for words in re.findall(r"^tapeworks (component \w+|\w+)", page, re.MULTILINE)}
    group = typer.main.get_group(app)
    component = group.commands["component"]
    known = set(group.commands) | {f"component {name}" for name in getattr(component, "commands", {})}
    assert {"component new", "component test", "serve", "submit", "download"} <= told <= known


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == tapeworks.__version__
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_locks_name_no_index() -> None:
    locks = sorted((ROOT / "requirements").glob("*.lock"))
    assert [lock.stem for lock in locks] == ["build", "development", "gpu", "service", "worker"]
    for lock in locks:
        text = lock.read_text()
        assert "--hash=sha256:" in text
        assert "index-url" not in text
        assert "find-links" not in text
