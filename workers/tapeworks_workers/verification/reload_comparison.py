"""Verifier A, second half: what `reload.py` saw is compared with what the bundle's manifest and probes state.

`compare_reload(…)` runs in a process that imports none of the bundle's code. It gives a report, or raises JobFailure:
`reload_mismatch` where the model that came back is not the trained one, `not_serializable` where its config does not
come back, and whatever kept the loading process from continuing, after all that it saw before has been compared.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.engine import comparison
from tapeworks_workers.engine.export.class_signature import expected
from tapeworks_workers.engine.export.tensor_json import stored_leaves
from tapeworks_workers.engine.observation import (
    _MAX_NAMES,
    device_of,
    digest_rows,
    names_of,
    read_archive,
    read_observation,
)
from tapeworks_workers.verification.reload_hints import CONFIG_HINT, PRECISION_HINT, STATE_HINT

MAX_CONFIG_BYTES = 64 << 20
_LOAD_MODEL = "keras.models.load_model"


@dataclass(frozen=True)
class _Model:
    """One exported model: its entry in the manifest, and the arrays of both sides."""

    role: str
    entry: Mapping[str, Any]
    tolerance: float
    stored: Mapping[str, np.ndarray]
    """Of the bundle's probes."""
    found: Mapping[str, np.ndarray]
    """Of the process that loaded the model."""


def compare_reload(bundle: Path, manifest: Mapping[str, Any], observed: Path) -> dict[str, Any]:
    """Compare the observation in the folder `observed`: the report. Raises JobFailure, ObservationRefused."""
    facts, arrays = read_observation(observed)
    tolerance = float(manifest["tolerance"])
    models: dict[str, Any] = {}
    for role, entry in manifest["models"].items():
        seen = _part(facts, facts["models"], role)
        model = _Model(role, entry, tolerance, read_archive(bundle / entry["probe"]["file"]), arrays)
        report = models[role] = {}
        if entry["keras"]:
            loaded = _part(facts, seen, "keras")
            report["keras"] = _compare_keras(bundle, model, facts, loaded)
            if entry.get("classify"):
                names = manifest["class_names"]
                report["keras"]["classify"] = _compare_classes(model, "load.classify()", names, facts, loaded)
            report["load_model"] = _compare_load_model(model, facts, _part(facts, seen, "load_model"), loaded["facts"])
        if entry["saved_model"]:
            served = _part(facts, seen, "saved_model")
            report["saved_model"] = _compare_saved_model(model, facts, served)
            if entry.get("classify"):
                form, names = "the signature classify of the SavedModel", manifest["class_names"]
                report["saved_model"]["classify"] = _compare_classes(model, form, names, facts, served)
    if "failure" in facts:
        raise _failure(facts)
    return {
        "verifier": "reload",
        "models": models,
        "tolerance": tolerance,
        "versions": comparison.versions(),
        "device": device_of(facts["device"]),
        "tapeworks_modules": names_of(facts["tapeworks_modules"]),
        "bundle_modules": names_of(facts["bundle_modules"]),
    }


def _part(facts: Mapping[str, Any], of: Mapping[str, Any], name: str) -> Any:
    """What was seen, or the failure that kept it from being seen."""
    if name not in of:
        raise _failure(facts)
    return of[name]


def _failure(facts: Mapping[str, Any]) -> JobFailure:
    failure = facts.get("failure")
    if not isinstance(failure, dict):
        return _mismatch("the process that loaded the bundle ended without all that was to be compared", STATE_HINT)
    code = str(failure.get("code"))
    code = code if code in ("reload_mismatch", "not_serializable", "component_error") else "internal"
    text = str(failure.get("message"))[:2000]
    return JobFailure(FailureCode(code), text, hint=str(failure.get("hint") or "")[:1000] or None, retryable=False)


def _mismatch(message: str, hint: str) -> JobFailure:
    return JobFailure(FailureCode.RELOAD_MISMATCH, message, hint=hint)


# ── .keras ───────────────────────────────────────────────────────────────────────────────────────


def _compare_keras(bundle: Path, model: _Model, facts: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, Any]:
    role, entry = model.role, model.entry
    complaints = [str(complaint) for complaint in _part(facts, seen, "complaints")[:_MAX_NAMES]]
    _same_variables(model, "weights", entry["weights"], _part(facts, seen, "weights"), complaints)
    _same_variables(model, "optimizer", entry["optimizer_weights"], _part(facts, seen, "optimizer"), complaints)
    if complaints:
        raise _mismatch(f"Keras warned while loading {role!r}: {comparison.short(complaints[0])}", STATE_HINT)
    _same_config(bundle / entry["keras"], model, _part(facts, seen, "configs"))
    found = _same_outputs(model, ".keras", _part(facts, seen, "outputs"))
    other = _part(facts, seen, "outputs_of_other_precision")
    found += _same_outputs(model, "load.load() in a process of other precision", other)
    _part(facts, seen, "facts")
    variables = {"weights": len(entry["weights"]), "optimizer_variables": len(entry["optimizer_weights"])}
    outputs = comparison.worst(found).document()
    batches = len(entry["probe"]["batches"])
    return {**variables, "config": "equal", "batches": batches, "outputs": outputs}


def _same_variables(
    model: _Model, what: str, stored: Sequence[Mapping[str, Any]], found: Mapping[str, Any], complaints: Sequence[str]
) -> None:
    """By position: names are not stable (auto-numbered layers), order is."""
    hint = STATE_HINT if what == "weights" else "An optimizer must own exactly the model's trainable variables."
    expected, actual = digest_rows([entry["sha256"] for entry in stored]), model.found[found["array"]]
    if actual.dtype != expected.dtype or actual.shape[1:] != expected.shape[1:]:
        raise _mismatch(f"{model.role!r}: the digests of its {what} cannot be read", hint)
    for entry, left, right in zip(stored, expected, actual, strict=False):
        if left.tobytes() != right.tobytes():
            layer = entry["path"].rpartition("/")[0] or entry["path"]
            note = f" (Keras: {comparison.short(complaints[0], 200)})" if complaints else ""
            message = f"{model.role!r}: the layer {layer!r} came back with other {what}, first {entry['path']!r}{note}"
            raise _mismatch(message, hint)
    if len(expected) != len(actual):
        first = f": {stored[len(actual)]['path']!r} is missing" if len(actual) < len(stored) else ""
        message = f"{model.role!r} had {len(expected)} {what} variables, {len(actual)} came back{first}"
        raise _mismatch(message, hint)


def _same_config(file: Path, model: _Model, configs: Sequence[Any]) -> None:
    """The config in the file, that of the loaded model, and that of a model rebuilt from it are one.

    What a model that the job did not compile compiles itself with in `__init__` is made anew each time.
    """
    with zipfile.ZipFile(file) as archive, archive.open("config.json") as opened:
        text = opened.read(MAX_CONFIG_BYTES + 1)
    if len(text) > MAX_CONFIG_BYTES:
        raise _mismatch(f"the config of {model.role!r} has more than {MAX_CONFIG_BYTES} bytes", CONFIG_HINT)
    saved = comparison.comparable(json.loads(text))
    ignored = () if model.entry["compiled"] else ("compile_config",)
    loaded, rebuilt = configs
    for other in (loaded, rebuilt):
        found = comparison.comparable(other)
        left, right = ({k: v for k, v in one.items() if k not in ignored} for one in (saved, found))
        where = comparison.first_path(left, right)
        if where:
            message = f"{model.role!r}: the config does not come back equal at {where}"
            hint = "from_config(get_config()) must give an equal object: keep arguments as they were given."
            raise JobFailure(FailureCode.NOT_SERIALIZABLE, message, hint=hint)


def _same_outputs(model: _Model, form: str, seen: Sequence[Mapping[str, Any]]) -> list[comparison.Difference]:
    found = []
    for batch, observed in zip(model.entry["probe"]["batches"], seen, strict=True):
        where = comparison.first_difference(batch["layers"], observed["layers"])
        found.append(_close(model, form, stored_leaves(batch["outputs"], model.stored), observed["outputs"], where))
        losses, other = float(batch["losses"]), float(observed["losses"])  # "NaN" is a string in JSON
        if abs(other - losses) > model.tolerance * max(1.0, abs(losses)):
            message = f"the regularization of {model.role!r} was {losses} and is {other} after the reload"
            raise _mismatch(message, STATE_HINT)
    return found


def _close(
    model: _Model, form: str, expected: list[np.ndarray], structure: Mapping[str, Any], where: str | None
) -> comparison.Difference:
    """Within `tolerance`, for outputs beyond 1 relative to the largest; half precision is given its own rounding."""
    first = f"; the first layer that differs is {comparison.short(where)}" if where else ""
    try:
        found = comparison.difference(expected, stored_leaves(structure, model.found))
    except ValueError as error:
        raise _mismatch(f"{form} of {model.role!r}: the outputs changed: {error}{first}", STATE_HINT) from error
    rounding = {"float16": 2.0**-8, "bfloat16": 2.0**-5}.get(model.entry["compute_dtype"], 0.0)
    if not found.max_abs_difference <= max(model.tolerance, rounding) * found.scale:
        message = (
            f"{form} of {model.role!r}: outputs differ by up to {found.max_abs_difference:.3g} "
            f"from the trained model's (tolerance {model.tolerance:g}){first}"
        )
        raise _mismatch(message, STATE_HINT)
    return found


# ── keras.models.load_model ──────────────────────────────────────────────────────────────────────


def _compare_load_model(
    model: _Model, facts: Mapping[str, Any], seen: Mapping[str, Any], expected: Mapping[str, Any]
) -> dict[str, Any]:
    """`expected`: what `load.load()` gave."""
    found = _part(facts, seen, "facts")
    for (path, cls, policy), (_, _, other) in zip(expected["policies"], found["policies"], strict=True):
        if policy != other:
            message = f"{_LOAD_MODEL} of {model.role!r}: the layer {path!r} ({cls}) has the dtype policy {other}, "
            raise _mismatch(comparison.short(f"{message}was {policy}"), PRECISION_HINT)
    _same_variables(model, "weights", model.entry["weights"], _part(facts, seen, "weights"), [])
    sides = [[model.found[rows["array"]] for rows in one["optimizer"]] for one in (expected, found)]
    same = [(left == right).all(-1) for left in sides[0] for right in sides[1] if left.shape == right.shape]
    if not same or not np.logical_or.reduce(same).all():
        raise _mismatch(f"{_LOAD_MODEL} of {model.role!r}: the optimizer came back with other values", PRECISION_HINT)
    differences = _same_outputs(model, _LOAD_MODEL, _part(facts, seen, "outputs"))
    return {"layers": len(found["policies"]), "outputs": comparison.worst(differences).document()}


# ── SavedModel ───────────────────────────────────────────────────────────────────────────────────


def _compare_saved_model(model: _Model, facts: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, Any]:
    """`serving_default`, and `serving_flat` where there is one."""
    found, batches = [], model.entry["probe"]["batches"]
    for index, batch in enumerate(batches):
        expected = stored_leaves(batch["outputs"], model.stored)
        if len(seen["outputs"]) <= index:
            raise _failure(facts)
        found.append(_close(model, "SavedModel", expected, seen["outputs"][index], None))
        if "flat" in model.entry["serving"]:
            if len(seen["flat"]) <= index:
                raise _failure(facts)
            form = "the signature serving_flat of the SavedModel"
            found.append(_close(model, form, expected, seen["flat"][index], None))
    signatures = names_of(seen["signatures"])
    return {"signatures": signatures, "batches": len(found), "outputs": comparison.worst(found).document()}


# ── classify ─────────────────────────────────────────────────────────────────────────────────────


def _compare_classes(
    model: _Model, form: str, names: Sequence[str], facts: Mapping[str, Any], seen: Mapping[str, Any]
) -> dict[str, Any]:
    """Scores within `tolerance` of those of the stored outputs; names exactly, each that of the largest score."""
    about, batches = model.entry["classify"], model.entry["probe"]["batches"]
    texts = np.array([name.encode() for name in names], object)
    found = []
    for index, batch in enumerate(batches):
        if len(seen["classify"]) <= index:
            raise _failure(facts)
        observed = seen["classify"][index]
        (outputs,) = stored_leaves(batch["outputs"], model.stored)
        found.append(_close(model, form, [expected(about, outputs)], observed["scores"], None))
        ((chosen,), (listed,), (scores,)) = (stored_leaves(observed[key], model.found) for key in _ANSWERS)
        if not np.array_equal(listed, np.broadcast_to(texts, scores.shape)):
            raise _mismatch(f"{form} of {model.role!r} lists other names than the classes of the job", STATE_HINT)
        if not np.array_equal(chosen, texts[scores.argmax(-1)]):
            raise _mismatch(f"{form} of {model.role!r} names a class that has not the largest score", STATE_HINT)
    return {"classes": len(names), "scores": comparison.worst(found).document()}


_ANSWERS = ("class", "classes", "scores")
