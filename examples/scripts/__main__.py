"""Each script as it is and with `client.fit`, their metrics and times: `python -m examples.scripts [NAME …]`.

A service must be running (`TAPEWORKS_URL`, `TAPEWORKS_KEY`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

NAMES = ("tabular", "images", "text")
CHANGES = (("import keras\n", "import keras\nimport tapeworks\n"), ("model.fit(", "tapeworks.Client().fit(model, "))
"""What is replaced in each script: one line more, and one that is changed."""


def moved_over(source: str) -> str:
    """The script with `client.fit` in place of `model.fit`."""
    for before, after in CHANGES:
        if source.count(before) != 1:
            raise ValueError(f"the script has {before!r} {source.count(before)} times")
        source = source.replace(before, after)
    return source


def run(name: str, *, moved: bool) -> tuple[float, float]:
    """(metric, seconds) of a script; `moved`: with `client.fit`."""
    path = Path(__file__).with_name(f"{name}.py")
    source = path.read_text(encoding="utf-8")
    program = compile(moved_over(source) if moved else source, str(path), "exec")
    variables: dict[str, object] = {"__name__": "script"}
    begin = time.perf_counter()
    exec(program, variables)  # noqa: S102  # the scripts of this folder
    result = variables["result"]
    assert isinstance(result, float)  # noqa: S101
    return result, time.perf_counter() - begin


def main(names: Sequence[str]) -> None:
    """Print a line for each script."""
    for name in names or NAMES:
        (here, here_seconds), (there, there_seconds) = run(name, moved=False), run(name, moved=True)
        print(f"{name:8} fit: {here:.3f} in {here_seconds:5.1f} s   client.fit: {there:.3f} in {there_seconds:5.1f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
