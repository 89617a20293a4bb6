"""The `data` of a spec: sources inside sources, data that never becomes a batch, data that never ends.

`branches` finds what a source of sources holds in its config, checks each branch's operations and puts its canonical
form in its place; `data_findings` follows elements from the sources through every pipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from tapeworks.errors import Finding, ProblemCode
from tapeworks.schemas.jobs import ComponentEntry
from tapeworks.spec.job_spec import JobSpec
from tapeworks.spec.parsing import findings
from tapeworks.spec.pipeline_ops import BATCHING, SourceBranch, batching, branch_of, function_kind, training_only
from tapeworks.spec.references import Kind, ReferenceFields, escape
from tapeworks.spec.shorthand import Folded
from tapeworks_service.http.work_budget import spend

Found = Callable[[Kind, str], ComponentEntry | None]
"""The catalogue's entry that a job uses."""


# ── sources inside sources ───────────────────────────────────────────────────────────────────────


def branch_arguments(schema: Mapping[str, Any]) -> list[str]:
    """The arguments of a source whose values are branches, by its schema's `x-branch`."""
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return []
    return [name for name, value in properties.items() if _holds_branch(value)]


def _holds_branch(schema: Any) -> bool:
    if not isinstance(schema, dict):
        return False
    inner = (schema.get("items"), schema.get("additionalProperties"))
    return schema.get("x-branch") is True or any(_holds_branch(one) for one in inner)


def branches(held: Any, pointer: str) -> Iterator[tuple[str, dict[str, Any], list[Finding]]]:
    """Every branch that an argument holds: its pointer, its canonical document, what is wrong with it.

    The canonical document stands in the argument's list or dict afterwards. A bare reference stays one.
    """
    items = list(enumerate(held)) if isinstance(held, list) else list(held.items()) if isinstance(held, dict) else []
    for key, value in items:
        spend()
        at = f"{pointer}/{escape(str(key))}"
        document = branch_of(value)
        try:
            canonical = SourceBranch.model_validate(document).model_dump(mode="json")
        except ValidationError as error:
            found = findings(error, Folded(document if isinstance(document, dict) else {}), SourceBranch)
            inside = "" if document is value else "/source"
            yield at, {}, [replace(one, pointer=at + one.pointer.removeprefix(inside)) for one in found]
            continue
        held[key] = canonical if document is value else canonical["source"]
        yield at, held[key], []


def branch_places(document: dict[str, Any], pointer: str) -> Iterator[tuple[str, Kind, dict[str, Any]]]:
    """The references of a branch: pointer, kind, value."""
    if "source" not in document:
        yield pointer, Kind.SOURCE, document
        return
    yield f"{pointer}/source", Kind.SOURCE, document["source"]
    yield from pipeline_places(document["pipeline"], f"{pointer}/pipeline")


def pipeline_places(pipeline: list[dict[str, Any]], pointer: str) -> Iterator[tuple[str, Kind, dict[str, Any]]]:
    """The functions of a pipeline's operations: pointer, kind, value."""
    for index, operation in enumerate(pipeline):
        if "function" in operation:
            yield f"{pointer}/{index}/function", function_kind(operation["op"]), operation["function"]


# ── elements on their way ────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Flow:
    """What comes out of a source or a pipeline."""

    batched: bool | None
    """None: only the worker can tell."""
    endless: bool
    """By a `repeat` without a count."""
    at: str = ""
    """The `repeat` that made it so."""


class Data:
    """Follows elements through sources and pipelines, and notes what is wrong on the way."""

    def __init__(self, found: Found) -> None:
        self._found = found
        self.findings: list[Finding] = []

    def source(self, reference: ReferenceFields, pointer: str, split: str) -> Flow:
        """What a source gives."""
        entry = self._found(Kind.SOURCE, reference.component)
        if entry is None:
            return Flow(None, endless=False)
        flows = []
        for argument in branch_arguments(entry.config_schema):
            for at, document, _ in branches(deepcopy(reference.config.get(argument)), f"{pointer}/config/{argument}"):
                if document:
                    branch = SourceBranch.model_validate(branch_of(document))
                    inner = self.source(branch.source, f"{at}/source" if "source" in document else at, split)
                    flows.append(self.pipeline(branch.pipeline, inner, f"{at}/pipeline", split))
        if not flows:
            return Flow(entry.batched, endless=False)
        states = {flow.batched for flow in flows}
        endless = all(flow.endless for flow in flows)
        return Flow(states.pop() if len(states) == 1 else None, endless, flows[0].at if endless else "")

    def pipeline(self, operations: list[Any], flow: Flow, pointer: str, split: str) -> Flow:
        """What a pipeline makes of it in a split."""
        kept = [
            (index, operation)
            for index, operation in enumerate(operations)
            if split == "training" or not training_only(operation)
        ]
        batched = flow.batched
        if batched is not None:
            check = batching([operation for _, operation in kept], batched, self._batches)
            batched = check.batched
            if check.misplaced is not None:
                index, operation = kept[check.misplaced]
                message = f"{operation.op} {check.reason}"
                self.findings.append(Finding(f"{pointer}/{index}", ProblemCode.MISSING_BATCH, message, check.hint))
        elif any(operation.op in BATCHING for _, operation in kept):
            batched = True
        endless, at = flow.endless, flow.at
        for index, operation in kept:
            if operation.op == "repeat" and operation.count is None:
                endless, at = True, f"{pointer}/{index}"
            elif operation.op == "take":
                endless = False
        return Flow(batched, endless, at)

    def _batches(self, operation: Any) -> bool:
        entry = self._found(Kind.DATASET_FUNCTION, operation.function.component)
        return entry is not None and entry.batched is True


def data_findings(spec: JobSpec, found: Found) -> list[Finding]:
    """Data that never becomes a batch, or never ends."""
    data = Data(found)
    endless = Flow(None, endless=False)
    for name in ("training", "validation", "test"):
        given = spec.data.source if name == "training" else getattr(spec.data, name)
        if given is None:
            continue
        own = isinstance(given, ReferenceFields)
        reference, pointer = (given, f"/data/{name}") if own else (spec.data.source, "/data/source")
        pointer = "/data/source" if name == "training" else pointer
        flow = data.pipeline(spec.data.pipeline, data.source(reference, pointer, name), "/data/pipeline", name)
        if name == "training":
            endless = flow
        if flow.batched is False:
            whose = f"the source {reference.component!r} gives single elements and no operation batches them"
            message = whose if name == "training" else f"{whose} in the {name} split"
            hint = 'Add {"op": "batch", "batch_size": 32}.'
            data.findings.append(Finding("/data/pipeline", ProblemCode.MISSING_BATCH, message, hint))
            break
    bounded = spec.training.steps_per_epoch is not None or spec.training.max_steps is not None
    if endless.endless and not bounded:
        message = "repeat without a count never ends, and neither steps_per_epoch nor max_steps is set"
        hint = "Give it a count, or set training.steps_per_epoch or training.max_steps."
        data.findings.append(Finding(endless.at, ProblemCode.ENDLESS_DATA, message, hint))
    return list(dict.fromkeys(data.findings))
