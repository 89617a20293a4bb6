"""The examples as rows.toml lists them, and one of them sent to a server.

A `from` in an example's spec names another example's file (`continue/pretrain.json`): that one is submitted first and
its job's id is put there.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.serving import EXAMPLES
from tapeworks import Client
from tapeworks.schemas.jobs import Job


@dataclass(frozen=True)
class Example:
    """One spec, and what its job must reach."""

    row: str
    spec: str
    """The file's path below examples/."""
    metric: str
    at_least: float | None = None
    at_most: float | None = None
    fast: bool = False
    """Runs in the tests too."""

    @property
    def path(self) -> Path:
        return EXAMPLES / self.spec

    def reached(self, value: float | None) -> bool:
        """Whether a value is what was stated."""
        if value is None:
            return False
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    @property
    def stated(self) -> str:
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"

    @property
    def traces(self) -> int:
        """How often its step is traced: once, or never where it runs without a graph."""
        execution = json.loads(self.path.read_text()).get("training", {}).get("execution") or {}
        return 0 if execution.get("plan") == "eager" else 1

    def needs(self) -> set[str]:
        """The examples whose jobs this one goes on from."""
        return {value for value in _froms(json.loads(self.path.read_text())) if value.endswith(".json")}

    def document(self, known: dict[str, str]) -> dict[str, Any]:
        """The spec as it is sent; `known`: example → id of its job, for what it goes on from."""
        document: dict[str, Any] = _with_ids(json.loads(self.path.read_text()), known)
        return document


def examples() -> list[Example]:
    """All of them, in the file's order."""
    return [Example(row=name, **item) for name, row in _listed().items() for item in row["examples"]]


def rows() -> list[str]:
    """The rows of the guide: docs/guide/ROW.md is the page of each."""
    return list(_listed())


def _listed() -> dict[str, dict[str, Any]]:
    return tomllib.loads((EXAMPLES / "rows.toml").read_text())


def waves(chosen: list[Example]) -> list[list[Example]]:
    """The chosen ones and what they go on from, so that each is in a later wave than what it goes on from."""
    by_spec = {one.spec: one for one in examples()}
    order: dict[str, int] = {}

    def place(spec: str) -> int:
        if spec not in order:
            order[spec] = 1 + max(map(place, by_spec[spec].needs()), default=-1)
        return order[spec]

    last = max((place(example.spec) for example in chosen), default=-1)
    return [[one for one in by_spec.values() if order.get(one.spec) == wave] for wave in range(last + 1)]


def submit(client: Client, example: Example, known: dict[str, str]) -> str:
    """Submit an example, those first that it goes on from; `known`: example → id of its job, which grows."""
    if example.spec not in known:
        by_spec = {one.spec: one for one in examples()}
        for needed in sorted(example.needs()):
            submit(client, by_spec[needed], known)
        known[example.spec] = client.submit(example.document(known)).id
    return known[example.spec]


def traces(job: Job, client: Client) -> int:
    """The largest number of times that a function was traced."""
    counts = [int(str(event.data["count"])) for event in client.events(job.id) if event.type == "trace"]
    return max(counts, default=0)


def _froms(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("from"), str):
            yield value["from"]
        for item in value.values():
            yield from _froms(item)
    elif isinstance(value, list):
        for item in value:
            yield from _froms(item)


def _with_ids(value: Any, known: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {
            key: known.get(item, item) if key == "from" and isinstance(item, str) else _with_ids(item, known)
            for key, item in value.items()
        }
    return [_with_ids(item, known) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    print("the tests run these examples as jobs:", *(one.spec for one in examples() if one.fast), sep="\n  ")
