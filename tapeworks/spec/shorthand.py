"""The short forms of a spec: singular keys and bare names, folded into the canonical document."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tapeworks.errors import Finding, ProblemCode, SpecInvalid

_SINGULAR = {"model": "models", "optimizer": "optimizers", "loss": "losses"}
_ROLE = "model"


@dataclass(frozen=True)
class Folded:
    """A spec document in plural form, and where its parts stood in the original."""

    document: dict[str, Any]
    moved: dict[str, str] = field(default_factory=dict)
    """Plural pointer → pointer in the user's document: `/models/model` → `/model`."""

    def original(self, pointer: str) -> str:
        """The user's own pointer for a place of the canonical document."""
        pointer = self._as_written(pointer)
        for plural, singular in self.moved.items():
            if pointer == plural or pointer.startswith(plural + "/"):
                return singular + pointer[len(plural) :]
        return pointer

    def _as_written(self, pointer: str) -> str:
        """A bare string stands for a reference: what is said of its name or config is said of the string."""
        value: Any = self.document
        for position, step in enumerate(pointer.split("/")[1:]):
            if isinstance(value, str):
                return "/".join(pointer.split("/")[: position + 1])
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(value, dict) and key in value:
                value = value[key]
            elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
                value = value[int(key)]
            else:
                break
        return pointer


def fold(document: dict[str, Any]) -> Folded:
    """Rewrite the singular forms as plural ones. Both at once raises `SpecInvalid`."""
    folded = dict(document)
    moved: dict[str, str] = {}
    for singular, plural in _SINGULAR.items():
        if singular not in folded:
            continue
        if plural in folded and folded[singular] is not None:
            raise SpecInvalid(
                [
                    Finding(
                        f"/{singular}",
                        ProblemCode.INVALID_VALUE,
                        f"{singular!r} and {plural!r} are the same field, and both are given",
                        f"Keep {plural!r} and put the other under a role of it.",
                    )
                ]
            )
        value = folded.pop(singular)
        if value is not None:
            folded[plural] = {_ROLE: value}
            moved[f"/{plural}/{_ROLE}"] = f"/{singular}"
    if isinstance(folded.get("models"), dict):
        folded["models"] = _filled_copies(folded["models"])
    metrics = folded.get("metrics")
    if isinstance(metrics, list) or (isinstance(metrics, dict) and set(metrics) == {"outputs"}):
        folded["metrics"] = {_ROLE: metrics}
        moved[f"/metrics/{_ROLE}"] = "/metrics"
    return Folded(folded, moved)


def _filled_copies(models: dict[str, Any]) -> dict[str, Any]:
    """`{"copy_of": ROLE}` alone is that role's component and config, and what it adapts."""

    def filled(model: Any) -> Any:
        if not isinstance(model, dict) or "component" in model or not isinstance(model.get("copy_of"), str):
            return model
        origin = models.get(model["copy_of"])
        origin = {"component": origin} if isinstance(origin, str) else origin
        if not isinstance(origin, dict):
            return model
        return {**{key: origin[key] for key in ("component", "version", "config", "adapt") if key in origin}, **model}

    return {role: filled(model) for role, model in models.items()}
