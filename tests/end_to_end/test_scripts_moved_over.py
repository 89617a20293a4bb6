"""Three Keras scripts with `client.fit` in place of `fit` reach the script's own metric."""

import pytest

from examples.scripts.__main__ import NAMES, moved_over, run
from tests.support.paths import ROOT
from tests.support.serving import Served


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text", *(pytest.param(one, marks=pytest.mark.thorough) for one in NAMES[:2])])
def test_a_script_reaches_its_metric_with_two_changed_lines(
    served: Served, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAPEWORKS_URL", served.url)
    source = (ROOT / "examples" / "scripts" / f"{name}.py").read_text(encoding="utf-8")
    assert len(set(moved_over(source).splitlines()) - set(source.splitlines())) <= 3
    (here, _), (there, seconds) = run(name, moved=False), run(name, moved=True)
    assert there >= here - 0.03, f"{name}: fit reaches {here:.3f}, client.fit {there:.3f} after {seconds:.0f} s"
