"""How the result of a validation by tracing looks, whatever is in it."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from tapeworks.cli.jobs.validation_report import place, show_result

RESULT: dict[str, Any] = {
    "element_spec": [{"field": "x", "kind": "dense", "shape": [None, 64], "dtype": "float32"},
                     {"field": "y", "kind": "ragged", "shape": [None, None], "dtype": "int64"}],
    "models": {"model": {"inputs": "float32 (?, 64)", "outputs": {"shape": [None, 10], "dtype": "float32"},
                         "parameters": 4810, "trainable": 4700}},
    "parameters": 4810, "memory_bytes": 3 * 1024**2, "flops_per_step": 1_234_000, "traces": 1,
    "plan": {"name": "loop", "steps_per_call": 16, "steps_per_second": 210.5},
    "warnings": [{"code": "float64_input", "message": "x is float64", "hint": "Cast it.",
                  "location": {"file": "acme.py", "line": 12, "component": "acme/Scale"}}],
    "quote": {"seconds": [4.5, 61], "memory_bytes": [1024, 2048], "device_seconds": [4, 4], "steps": 225},
    "something_new": {"later": True},
}  # fmt: skip


def shown(result: dict[str, Any]) -> str:
    """What is printed, every run of spaces as one."""
    out = StringIO()
    show_result(Console(file=out, width=10_000, highlight=False), result)
    return " ".join(out.getvalue().split())


@pytest.mark.parametrize(
    "words",
    [
        "ELEMENT SPEC x float32 (?, 64) y ragged int64 (?, ?)",
        "MODEL INPUTS OUTPUTS PARAMETERS TRAINABLE model float32 (?, 64) float32 (?, 10) 4,810 4,700",
        "memory 3 MiB FLOPs 1.234 M traces 1 plan loop 210.5 steps/s steps_per_call=16",
        "something_new later: true",
        "estimated time 4.5 s … 1:01 estimated memory 1 KiB … 2 KiB device time 4 s steps 225",
        "warning: float64_input: x is float64 at acme.py:12 (acme/Scale) Cast it.",
    ],
)
def test_what_is_there_is_shown(words: str) -> None:
    assert words in shown(RESULT)


def test_what_is_not_known_is_said_and_what_is_odd_is_shown() -> None:
    odd = {
        "element_spec": {"x": {"age": "tf.float32[None]", "b": {"dtype": "string", "ragged_rank": 1}}, "y": None},
        "flops_per_step": None, "memory_bytes": "much", "plan": "steps", "quote": {"seconds": None, "steps": None},
        "models": {"model": {}}, "warnings": ["odd", {"message": "m", "location": "step"}],
    }  # fmt: skip
    text = shown(odd)
    assert "x.age tf.float32[None] x.b string ragged_rank=1 y null" in text
    assert "model unknown unknown unknown unknown" in text
    assert "memory much FLOPs unknown plan steps estimated time unknown steps unknown" in text
    assert text.endswith("warning: odd warning: m at step")
    assert shown({}) == ""


def test_a_place_is_a_line() -> None:
    assert place({"file": "a.py", "line": 3, "component": None}) == "a.py:3"
    assert place({"component": "acme/X"}) == "acme/X"
    assert place(None) == ""
