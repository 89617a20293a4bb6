"""A job as HTML: what it shows, and that no text of a job becomes markup."""

import math
from xml.etree import ElementTree

from tapeworks.schemas.job_html import job_html
from tapeworks.schemas.jobs import Job
from tests.support import service_answers as answers

HOSTILE = "<img src=x onerror=alert(1)>\"'&"


def test_names_states_and_failures_are_escaped() -> None:
    curves = {HOSTILE: [(0, 1.0), (1, math.nan), (2, 0.5)]}
    shown = job_html(
        id=HOSTILE,
        name=HOSTILE,
        state=HOSTILE,
        progress=HOSTILE,
        failure=HOSTILE,
        metrics={HOSTILE: 1.0},
        curves=curves,
    )
    assert "<img" not in shown
    tree = ElementTree.fromstring(shown)  # noqa: S314  # written here
    assert {one.tag for one in tree.iter()} == {
        "div", "b", "code", "pre", "svg", "polyline", "span", "table", "thead", "tbody", "tr", "th", "td",
    }  # fmt: skip
    (line,) = tree.iter("polyline")
    assert len(line.attrib["points"].split()) == 2, "a value that is not finite is left out"
    assert HOSTILE in (next(tree.iter("b")).text or "")


def test_a_job_shows_its_state_and_metrics_without_a_service() -> None:
    job = Job.model_validate(answers.job("running", metrics={"loss": 0.25}))
    shown = job._repr_html_()
    assert "running" in shown
    assert "0.25" in shown
