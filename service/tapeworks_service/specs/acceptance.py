"""From what a user sent to a job that can be queued, or to findings that say why not.

`accept` pins every component to the version and source that the catalogue has, checks configs
against their schemas and the spec's roles against the step's. Nothing is imported or built here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import structlog

from tapeworks.errors import Finding, ProblemCode, SpecInvalid
from tapeworks.schemas.jobs import ComponentEntry
from tapeworks.schemas.worker_protocol import PinnedComponent
from tapeworks.spec.job_spec import JobSpec
from tapeworks.spec.optimizer_groups import doubled_arguments
from tapeworks.spec.parsing import MAX_FINDINGS, parse_spec
from tapeworks.spec.references import Kind, escape, kind_of_argument, nested_references
from tapeworks.spec.shorthand import fold
from tapeworks.spec.step_roles import StepRoles, role_findings
from tapeworks_service.catalogue.catalogue import Catalogue, UploadedPackage
from tapeworks_service.catalogue.config_validation import config_findings, kind_in_schema, named_datasets
from tapeworks_service.http.work_budget import WorkExceeded, spend
from tapeworks_service.specs.data_flow import branch_arguments, branch_places, branches, data_findings, pipeline_places
from tapeworks_service.specs.input_references import InputReference, reference_finding
from tapeworks_service.specs.monitor_direction import monitor_findings
from tapeworks_service.specs.several_devices import several_devices_findings
from tapeworks_service.specs.splits import split_datasets, split_findings
from tapeworks_service.specs.unsupported import unsupported

log = structlog.get_logger(__name__)

MOST_INPUTS = 100
"""Different jobs, checkpoints and uploads that one job reads: each is looked up while it is submitted."""
_REPORT = "This is a defect of the service: its log has the error under the X-Request-Id."
PRETRAINED = (Kind.MODEL, "pretrained")
"""The component whose argument `from` names a job or a checkpoint, wherever in a spec it stands."""


@dataclass(frozen=True)
class AcceptedSpec:
    """A spec that can be queued."""

    spec: JobSpec
    """As it was sent: references without a version have none."""
    document: dict[str, Any]
    """The canonical form, every reference with its version."""
    installed: list[PinnedComponent]
    """Components that workers have."""
    packaged: list[PinnedComponent]
    """Components that uploaded packages bring."""
    inputs: list[InputReference]
    """Every `from` and every upload, in the spec's order."""
    warnings: list[str]

    @property
    def components(self) -> list[PinnedComponent]:
        """All that the job is built from."""
        return [*self.installed, *self.packaged]


@dataclass(frozen=True)
class ReferenceSite:
    """A reference of the spec itself: where it stands and which kind goes there."""

    pointer: str
    kind: Kind
    value: dict[str, Any]


@dataclass
class _Pins:
    """The components found so far, one version of each name."""

    catalogue: Catalogue
    findings: list[Finding] = field(default_factory=list)
    entries: dict[tuple[Kind, str], ComponentEntry] = field(default_factory=dict)
    inputs: list[InputReference] = field(default_factory=list)
    """What jobs and models begin with: each `from`."""
    uploads: list[InputReference] = field(default_factory=list)
    """Datasets that sources read, and packages of components."""
    packages: dict[str, UploadedPackage] = field(default_factory=dict)


def accept(document: Any, catalogue: Catalogue, *, default_timeout_seconds: float) -> AcceptedSpec:
    """Check a decoded JSON document as a job. Raises `SpecInvalid` with its findings, `WorkExceeded`.

    A spec without a time limit gets the default one, so that the job's own record holds what it ran under.
    """
    try:
        return _accept(document, catalogue, default_timeout_seconds=default_timeout_seconds)
    except (SpecInvalid, WorkExceeded):
        raise
    except RecursionError:
        raise SpecInvalid([Finding("", ProblemCode.INVALID_SPEC, "the spec is nested too deeply")]) from None
    except Exception as error:  # whatever a stranger's document does to the check is said of the document
        log.error("spec_check_failed", exc_info=error)
        message = f"the spec could not be checked: {type(error).__name__}"
        raise SpecInvalid([Finding("", ProblemCode.INVALID_SPEC, message, _REPORT)]) from error


def _accept(document: Any, catalogue: Catalogue, *, default_timeout_seconds: float) -> AcceptedSpec:
    spec = parse_spec(document)
    original = fold(document).original
    canonical = spec.document()
    if canonical["limits"]["timeout_seconds"] is None:
        canonical["limits"]["timeout_seconds"] = default_timeout_seconds
    findings = list(unsupported(canonical))
    pins = _Pins(catalogue, inputs=list(initial_states(spec)))
    for place in places(canonical):
        _pin(place, pins)
    pins.uploads += [InputReference(pointer, dataset) for pointer, dataset in split_datasets(spec)]
    findings += pins.findings
    findings += filter(None, map(reference_finding, pins.inputs))
    findings += data_findings(spec, lambda kind, name: pins.entries.get((kind, name)))
    findings += split_findings(spec, lambda kind, name: pins.entries.get((kind, name)))
    findings += doubled_arguments(spec)
    findings += several_devices_findings(spec)
    findings += monitor_findings(spec, lambda kind, name: pins.entries.get((kind, name)))
    step = pins.entries.get((Kind.STEP, spec.step.component))
    if step is not None and step.roles is not None:
        findings += _role_findings(spec, step)
    if findings:
        first = list(dict.fromkeys(findings))[:MAX_FINDINGS]
        raise SpecInvalid([replace(finding, pointer=original(finding.pointer)) for finding in first])
    warnings = [f"{entry.name}: {text}" for entry in pins.entries.values() for text in entry.warnings]
    read = [*pins.inputs, *pins.uploads]
    if len({reference.value for reference in read}) > MOST_INPUTS:
        message = f"a job reads at most {MOST_INPUTS} jobs, checkpoints and uploads"
        raise SpecInvalid([Finding(original(read[MOST_INPUTS].pointer), ProblemCode.INVALID_SPEC, message)])
    inputs = [replace(reference, pointer=original(reference.pointer)) for reference in read]
    return AcceptedSpec(spec, canonical, *_pinned(pins), inputs, warnings)


def _role_findings(spec: JobSpec, step: ComponentEntry) -> list[Finding]:
    """What is wrong with the spec's roles; or with those that the step declares, which are a stranger's word."""
    try:
        return list(role_findings(spec, step.name, StepRoles.of_entry(step.roles or {})))
    except (AttributeError, KeyError, TypeError, ValueError):
        message = f"the roles that the step {step.name!r} declares cannot be read"
        return [Finding("/step", ProblemCode.INVALID_VALUE, message, "Upload a corrected version of its package.")]


def _pinned(pins: _Pins) -> tuple[list[PinnedComponent], list[PinnedComponent]]:
    """The components that workers have, and those of packages."""
    sides: tuple[list[PinnedComponent], list[PinnedComponent]] = ([], [])
    for entry in pins.entries.values():
        one = PinnedComponent(kind=entry.kind.value, name=entry.name, version=entry.version, digest=entry.digest)
        sides[pins.catalogue.packaged(entry) is not None].append(one)
    return sides


def initial_states(spec: JobSpec) -> Iterator[InputReference]:
    """What the training and the models of a spec start from."""
    if spec.training.initial_state is not None:
        yield InputReference("/training/initial_state/from", spec.training.initial_state.from_)
    for role, model in spec.models.items():
        if model.initial_state is not None:
            yield InputReference(f"/models/{escape(role)}/initial_state/from", model.initial_state.from_)


def places(document: dict[str, Any]) -> Iterator[ReferenceSite]:
    """The references of a canonical document at the spec's own places, in its order."""
    data = document["data"]
    yield ReferenceSite("/data/source", Kind.SOURCE, data["source"])
    for split in ("validation", "test"):
        if data[split] is not None and "component" in data[split]:
            yield ReferenceSite(f"/data/{split}", Kind.SOURCE, data[split])
    for pointer, function, value in pipeline_places(data["pipeline"], "/data/pipeline"):
        yield ReferenceSite(pointer, function, value)
    for name, kind in (("models", Kind.MODEL), ("optimizers", Kind.OPTIMIZER)):
        for role, value in document[name].items():
            yield ReferenceSite(f"/{name}/{escape(role)}", kind, value)
    for name, kind in (("losses", Kind.LOSS), ("metrics", Kind.METRIC)):
        for role, value in document[name].items():
            yield from _measures(f"/{name}/{escape(role)}", kind, value)
    yield ReferenceSite("/step", Kind.STEP, document["step"])
    lists = (("gradients", Kind.GRADIENT_TRANSFORM), ("evaluators", Kind.EVALUATOR), ("callbacks", Kind.CALLBACK))
    for name, kind in lists:
        for index, value in enumerate(document[name]):
            yield ReferenceSite(f"/{name}/{index}", kind, value)


def _measures(pointer: str, kind: Kind, value: Any) -> Iterator[ReferenceSite]:
    """A loss, a list of losses or metrics, or any of them by output."""
    if value is None:
        return
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _measures(f"{pointer}/{index}", kind, item)
    elif "outputs" in value:
        for output, item in value["outputs"].items():
            yield from _measures(f"{pointer}/outputs/{escape(output)}", kind, item)
    else:
        yield ReferenceSite(pointer, kind, value)


def _pin(place: ReferenceSite, pins: _Pins) -> None:
    """Resolve one reference and those inside its config, in place; note what is wrong."""
    spend()
    name, version = place.value["component"], place.value.get("version")
    if version is not None and not isinstance(version, str):
        pins.findings.append(Finding(f"{place.pointer}/version", ProblemCode.INVALID_VALUE, "version must be a string"))
        return
    entry = pins.catalogue.find(place.kind, name, version)
    if entry is None:
        pins.findings.append(_unknown(place, version, pins.catalogue))
        return
    other = pins.entries.setdefault((place.kind, name), entry)
    if other.version != entry.version:
        message = f"{name!r} is used in the versions {other.version} and {entry.version}: use one version in a job"
        pins.findings.append(Finding(f"{place.pointer}/version", ProblemCode.INVALID_VALUE, message))
    place.value["version"] = entry.version
    config = place.value.setdefault("config", {})
    left = MAX_FINDINGS - len(pins.findings)  # a list of mistakes as long as the spec helps nobody
    pins.findings += islice(config_findings(pins.catalogue, entry, config, f"{place.pointer}/config"), max(0, left))
    if not isinstance(config, dict):
        return
    _pin_uploads(place, entry, pins)
    if (entry.kind, entry.name) == PRETRAINED and isinstance(config.get("from"), str):
        pins.inputs.append(InputReference(f"{place.pointer}/config/from", config["from"]))
    held = branch_arguments(entry.config_schema)
    for argument in held:
        _pin_branches(config.get(argument), f"{place.pointer}/config/{argument}", pins)
    others = {name: value for name, value in config.items() if name not in held}
    for nested in nested_references(others, f"{place.pointer}/config"):
        kind = kind_in_schema(entry.config_schema, nested.argument) or kind_of_argument(nested.argument)
        extra = set(nested.value) - {"component", "version", "config"}
        if extra:
            message = f"unknown field {min(extra)!r}: a reference has component, version and config"
            pins.findings.append(Finding(f"{nested.pointer}/{escape(min(extra))}", ProblemCode.UNKNOWN_FIELD, message))
        known = pins.catalogue.kinds(nested.value["component"])
        if kind is None or (kind not in known and kind is Kind.LAYER and Kind.MODEL in known):
            kind = known[0] if known else kind  # a model is a layer too
        if kind is None:
            pins.findings.append(_unknown_anywhere(nested.pointer, nested.value["component"], pins.catalogue))
        else:
            _pin(ReferenceSite(nested.pointer, kind, nested.value), pins)


def _pin_uploads(place: ReferenceSite, entry: ComponentEntry, pins: _Pins) -> None:
    """The package that brings a component, and the datasets that its config names."""
    package = pins.catalogue.packaged(entry)
    if package is not None and package.id not in pins.packages:
        for other in pins.packages.values():
            if shared := sorted(set(other.modules) & set(package.modules)):
                message = f"{package.label} and {other.label} both have a module {shared[0]!r}: a job uses one of them"
                pins.findings.append(Finding(f"{place.pointer}/component", ProblemCode.INVALID_VALUE, message))
        pins.packages[package.id] = package
        pins.uploads.append(InputReference(f"{place.pointer}/component", package.id))
    for pointer, dataset in named_datasets(entry.config_schema, place.value["config"], f"{place.pointer}/config"):
        pins.uploads.append(InputReference(pointer, dataset))


def _pin_branches(held: Any, pointer: str, pins: _Pins) -> None:
    """The same for the sources and pipelines inside a source of sources."""
    for at, document, found in branches(held, pointer):
        pins.findings += found
        for inside, kind, value in branch_places(document, at) if document else ():
            _pin(ReferenceSite(inside, kind, value), pins)


def _unknown(place: ReferenceSite, version: str | None, catalogue: Catalogue) -> Finding:
    name = place.value["component"]
    pointer = f"{place.pointer}/component"
    if not catalogue.entries:
        return _unknown_anywhere(pointer, name, catalogue)
    if version is not None and (present := catalogue.find(place.kind, name)) is not None:
        message = f"no worker has version {version!r} of the {place.kind.value} {name!r}"
        return Finding(
            f"{place.pointer}/version",
            ProblemCode.UNKNOWN_COMPONENT,
            message,
            f"Version {present.version!r} is available.",
        )
    message = f"no worker has a {place.kind.value} {name!r}"
    if pending := catalogue.pending.get(name.partition("/")[0]):
        return Finding(pointer, ProblemCode.UNKNOWN_COMPONENT, message, pending)
    return Finding(pointer, ProblemCode.UNKNOWN_COMPONENT, message, _meant(name, place.kind, catalogue))


def _meant(name: str, kind: Kind, catalogue: Catalogue) -> str:
    if reason := catalogue.refused.get(name):
        return f"A worker has the component but refused it: {reason}"
    close = [other for other in catalogue.close_names(name, kind) if other != name]
    if close:
        return "Did you mean " + " or ".join(repr(other) for other in close) + "?"
    if elsewhere := catalogue.kinds(name):
        return f"{name!r} is a {elsewhere[0].value}; expected a {kind.value}."
    return f"GET /v1/components?kind={kind.value} lists the components of this kind."


def _unknown_anywhere(pointer: str, name: str, catalogue: Catalogue) -> Finding:
    if not catalogue.entries:
        hint = "No worker has registered its components yet: start one (tapeworks worker), then submit again."
        return Finding(pointer, ProblemCode.UNKNOWN_COMPONENT, f"no worker has registered {name!r}", hint)
    close = catalogue.close_names(name, None)
    hint = f"Did you mean {close[0]!r}?" if close else ""
    return Finding(pointer, ProblemCode.UNKNOWN_COMPONENT, f"no worker has a component {name!r}", hint)
