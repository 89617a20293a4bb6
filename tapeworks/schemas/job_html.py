"""A job as HTML for a notebook: its state, its curves as inline SVG, a table of its metrics.

Every text is escaped, and there is no script: names and messages of a job are anybody's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT, _MARGIN = 420, 140, 8
_COLOURS = ("#4269d0", "#ff725c", "#3ca951", "#a463f2", "#efb118", "#6cc5b0")
_SHOWN = 6
Points = Sequence[tuple[int, float]]


def job_html(
    *, id: str, name: str | None, state: str, progress: str, failure: str | None, metrics: Mapping[str, float],
    curves: Mapping[str, Points] | None = None,
) -> str:  # fmt: skip
    """One block of HTML. `curves`: (step, value) of each metric, in order of step."""
    parts = [f"<div><b>{escape(name or id)}</b> <code>{escape(id)}</code> · {escape(state)} · {escape(progress)}</div>"]
    if failure is not None:
        parts.append(f'<pre style="white-space:pre-wrap">{escape(failure)}</pre>')
    drawn = {key: found for key, points in (curves or {}).items() if len(found := _finite(points)) > 1}
    shown = dict(list(drawn.items())[:_SHOWN])
    if shown:
        parts.append(_svg(shown))
    rows = "".join(f"<tr><td>{escape(key)}</td><td>{value:.6g}</td></tr>" for key, value in metrics.items())
    if rows:
        parts.append(f"<table><thead><tr><th>metric</th><th>last</th></tr></thead><tbody>{rows}</tbody></table>")
    return f'<div class="tapeworks-job">{"".join(parts)}</div>'


def _finite(points: Points) -> list[tuple[int, float]]:
    return [(step, value) for step, value in points if math.isfinite(value)]


def _svg(curves: Mapping[str, Points]) -> str:
    """The curves in one picture with a common scale, and their names below it."""
    steps = [step for points in curves.values() for step, _ in points]
    values = [value for points in curves.values() for _, value in points]
    lines = []
    for at, points in enumerate(curves.values()):
        path = " ".join(
            f"{_scaled(step, min(steps), max(steps), _WIDTH):.1f},"
            f"{_HEIGHT - _scaled(value, min(values), max(values), _HEIGHT):.1f}"
            for step, value in points
        )
        lines.append(f'<polyline fill="none" stroke-width="1.5" stroke="{_COLOURS[at]}" points="{path}"/>')
    names = " ".join(
        f'<span style="color:{_COLOURS[at]}">{escape(key)}</span>' for at, key in enumerate(curves)
    )  # fmt: skip
    label = escape(f"{', '.join(curves)}: {min(values):.4g} to {max(values):.4g}, steps {min(steps)} to {max(steps)}")
    svg = f'<svg role="img" aria-label="{label}" width="{_WIDTH}" height="{_HEIGHT}">{"".join(lines)}</svg>'
    return f"<div>{svg}</div><div>{names} · {label.rpartition(': ')[2]}</div>"


def _scaled(value: float, low: float, high: float, size: int) -> float:
    share = (value - low) / (high - low) if high > low else 0.5
    return _MARGIN + share * (size - 2 * _MARGIN)
