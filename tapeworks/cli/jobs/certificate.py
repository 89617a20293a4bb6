"""A certificate in sentences: how the model was loaded again, and what was compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tapeworks.cli.jobs.progress import number


def sentences(verified: Mapping[str, Any]) -> Iterator[str]:
    """One for each way in which the model was loaded and compared. The certificate is open JSON: what is not there, or
    has another form, is left out."""
    reload = _open(verified.get("reload"))
    for role, ways in _open(reload.get("models")).items():
        for way, result in _open(ways).items():
            found = _open(result)
            weights = f"; {number(found['weights'])} weight tensors were restored" if "weights" in found else ""
            compared = _closeness(_open(found.get("outputs")))
            yield (
                f"The model {role} was loaded as {way.replace('_', ' ')} in a fresh process: "
                f"outputs of {compared}{weights}."
            )
    if "tolerance" in reload:
        yield f"Outputs may differ by {number(reload['tolerance'])} at most."
    if step := _open(_open(verified.get("certify")).get("step")):
        yield f"One more training step after the reload gave the same state as the original: {_closeness(step)}."
    if isinstance(scope := verified.get("scope"), str):
        yield scope


def _closeness(compared: Mapping[str, Any]) -> str:
    """`1280 values, equal bit by bit`, or `1280 values, at most 2e-07 apart`."""
    count = compared.get("elements", compared.get("values", 0))
    if compared.get("bit_equal") is True:
        return f"{count} values, equal bit by bit"
    return f"{count} values, at most {number(compared.get('max_abs_difference'))} apart"


def _open(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
