"""`import tapeworks` stays light: no TensorFlow, NumPy or pandas, under half a second of processor time."""

import json
import subprocess
import sys

import pytest

_PROGRAM = """
import json, sys, time
begin = time.process_time()
import tapeworks
{use}
print(json.dumps([time.process_time() - begin, sorted({{one.partition(".")[0] for one in sys.modules}})]))
"""
_HEAVY = {"tensorflow", "keras", "numpy", "pandas", "polars", "pyarrow", "IPython", "anywidget", "traitlets"}


def started(use: str) -> tuple[float, set[str]]:
    """(seconds of processor time of the import, top-level modules) in a fresh process."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM.format(use=use)], capture_output=True, text=True, check=True)
    seconds, modules = json.loads(done.stdout)
    return seconds, set(modules)


@pytest.mark.parametrize("use", ["", "tapeworks.Client; tapeworks.from_keras; tapeworks.component"])
def test_the_import_brings_no_heavy_package(use: str) -> None:
    _, modules = started(use)
    assert not modules & _HEAVY


def test_the_import_takes_less_than_half_a_second_of_processor_time() -> None:
    assert min(started("")[0] for _ in range(3)) < 0.5
