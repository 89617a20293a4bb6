"""How the result of a validation by tracing looks: what comes in, the models, what a step costs, how long it takes.

The result is open JSON: what is there is shown, what is not known is shown as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from tapeworks.cli.console import table, value_text
from tapeworks.cli.jobs.progress import duration, number
from tapeworks.schemas.jobs import Failure

_RANGE = 2
_SHOWN = ("dtype", "shape", "kind", "field")


def show_result(console: Console, result: Mapping[str, Any]) -> None:
    """Print a result."""
    left = dict(result)
    _elements(console, left.pop("element_spec", None))
    _models(console, left.pop("models", None))
    warnings = left.pop("warnings", None) or []
    rows = table("STEP", "")
    for name, value in _facts(left):
        rows.add_row(name, value)
    if rows.row_count:
        console.print(rows)
    for warning in warnings:
        _warning(console, warning if isinstance(warning, Mapping) else {"message": warning})


def show_failure(console: Console, failure: Failure) -> None:
    """Print why it would fail: code and message, the place in the user's source, the remedy."""
    console.print(Text(f"error: {failure.code.value}: {failure.message}", style="red"))
    if failure.location is not None and (at := place(failure.location.model_dump())):
        console.print(Text(f"  at {at}", style="bold"))
    if failure.hint:
        console.print(Text(f"  {failure.hint}", style="dim"))


def place(location: Any) -> str:
    """A location in a line: `acme.py:12 (acme/Scale)`."""
    if not isinstance(location, Mapping):
        return str(location or "")
    at = str(location.get("file") or "")
    if at and location.get("line") is not None:
        at += f":{location['line']}"
    component = location.get("component")
    return f"{at} ({component})" if at and component else at or str(component or "")


# ── tables ───────────────────────────────────────────────────────────────────────────────────────


def _elements(console: Console, spec: Any) -> None:
    if spec is None:
        return
    rows = table("ELEMENT", "SPEC")
    for path, leaf in _leaves(spec, ""):
        rows.add_row(path or "element", leaf)
    console.print(rows)


def _models(console: Console, models: Any) -> None:
    if not isinstance(models, Mapping) or not models:
        return
    rows = table("MODEL", "INPUTS", "OUTPUTS", "PARAMETERS", "TRAINABLE")
    for role, described in models.items():
        model = described if isinstance(described, Mapping) else {}
        rows.add_row(
            str(role), _inline(model.get("inputs")), _inline(model.get("outputs")),
            _count(model.get("parameters")), _count(model.get("trainable")),
        )  # fmt: skip
    console.print(rows)


def _facts(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The rest as name and value."""
    formats: dict[str, Callable[[Any], str]] = {
        "parameters": _count, "memory_bytes": _bytes, "flops_per_step": _flops, "traces": _count, "plan": _plan,
    }  # fmt: skip
    names = {"memory_bytes": "memory", "flops_per_step": "FLOPs"}
    for name in (*formats, *(name for name in result if name not in formats and name != "quote")):
        if name in result:
            yield names.get(name, name), formats.get(name, _inline)(result[name])
    quote = result.get("quote")
    if isinstance(quote, Mapping):
        yield from _quote(quote)


def _quote(quote: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    shown: dict[str, Callable[[Any], str]] = {
        "seconds": _seconds, "memory_bytes": _bytes, "device_seconds": _seconds, "steps": _count,
    }  # fmt: skip
    names = {"seconds": "estimated time", "memory_bytes": "estimated memory", "device_seconds": "device time"}
    for name in (*shown, *(name for name in quote if name not in shown)):
        if name in quote:
            show = shown.get(name, _inline)
            yield names.get(name, name), _range(quote[name], show)


def _warning(console: Console, warning: Mapping[str, Any]) -> None:
    words = [str(warning[name]) for name in ("code", "message") if warning.get(name)]
    console.print(Text("warning: " + ": ".join(words), style="yellow"))
    if at := place(warning.get("location")):
        console.print(Text(f"  at {at}", style="bold"))
    if warning.get("hint"):
        console.print(Text(f"  {warning['hint']}", style="dim"))


# ── values ───────────────────────────────────────────────────────────────────────────────────────


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """The tensors of a nested spec with their paths."""
    if isinstance(value, Mapping) and not _is_tensor(value):
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list) and any(isinstance(item, (Mapping, list, str)) for item in value):
        items = enumerate(value)
    else:
        yield path, _tensor(value)
        return
    for key, item in items:
        at = str(item["field"]) if _is_tensor(item) and item.get("field") else f"{path}.{key}".lstrip(".")
        yield from _leaves(item, at)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Mapping) and ("dtype" in value or "shape" in value)


def _tensor(value: Any) -> str:
    """A tensor in words: `float32 (?, 64)`, `ragged int64 (?, ?)`."""
    if not _is_tensor(value):
        return value_text(value)
    shape, kind = value.get("shape"), value.get("kind", "dense")
    words = [*([str(kind)] if kind != "dense" else []), str(value.get("dtype", ""))]
    if isinstance(shape, list):
        words.append("(" + ", ".join("?" if size is None else str(size) for size in shape) + ")")
    words += [f"{key}={item}" for key, item in value.items() if key not in _SHOWN and item is not None]
    return " ".join(word for word in words if word)


def _inline(value: Any) -> str:
    if value is None:
        return "unknown"
    return ", ".join(f"{path}: {leaf}" if path else leaf for path, leaf in _leaves(value, ""))


def _plan(value: Any) -> str:
    if not isinstance(value, Mapping):
        return _inline(value)
    words = [str(value.get("name", ""))]
    if isinstance(rate := value.get("steps_per_second"), (int, float)):
        words.append(f"{number(rate)} steps/s")
    words += [f"{key}={_inline(item)}" for key, item in value.items() if key not in ("name", "steps_per_second")]
    return "  ".join(word for word in words if word)


def _range(value: Any, show: Callable[[Any], str]) -> str:
    if not isinstance(value, list) or len(value) != _RANGE:
        return show(value)
    low, high = (show(one) for one in value)
    return low if low == high else f"{low} … {high}"


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, (int, float)) else _inline(value)


def _seconds(value: Any) -> str:
    if not isinstance(value, (int, float)):
        return _inline(value)
    return duration(value) if value >= 10 else f"{number(value)} s"


def _bytes(value: Any) -> str:
    return _scaled(value, 1024, ("bytes", "KiB", "MiB", "GiB", "TiB"))


def _flops(value: Any) -> str:
    return _scaled(value, 1000, ("", "k", "M", "G", "T", "P"))


def _scaled(value: Any, base: int, units: tuple[str, ...]) -> str:
    if not isinstance(value, (int, float)):
        return _inline(value)
    size, unit = float(value), 0
    while abs(size) >= base and unit < len(units) - 1:
        size, unit = size / base, unit + 1
    return f"{number(size)} {units[unit]}".rstrip()
