"""Verifier B, first half: the bundle alone is enough to continue training.

`main(bundle, into)` runs in a fresh process whose registry is empty: a fork of the engine's zygote, or `python -m
tapeworks_workers.verification.certify BUNDLE INTO`. It imports the bundle's components, and no others, as real
components; puts the job together from the manifest's spec; restores `training_state/`; takes one more step on the
stored batch; and loads each model with `tapeworks.load`. It holds the code that the bundle brings, so it decides
nothing: what it saw is written to the folder `into` (`observation.py`), and `certificate.py` compares it in another
process. Loss and values must be those that training memory recorded, within `next_step.TOLERANCE`. A `.keras` file
alone could not do that: it keeps neither seeds nor an optimizer that spans two models.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tapeworks.bundle import load
from tapeworks.components.registry import registry
from tapeworks.errors import FailureCode, JobFailure
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.comparison import device, digest, why_not_rebuilt
from tapeworks_workers.engine.export.next_step import FOLDER, retake_next_step, stored_batch, verified
from tapeworks_workers.engine.export.tensor_json import Arrays
from tapeworks_workers.engine.observation import digest_rows, write_observation
from tapeworks_workers.verification.rebuild import rebuild_training


def main(bundle: str | Path, into: str | Path) -> dict[str, Any]:
    """Take one more step from the bundle in this folder. Raises what building raises."""
    bundle = Path(bundle).resolve()
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    arrays = Arrays()
    facts: dict[str, Any] = {"components": import_components(bundle, manifest)}
    with verified("the bundle"):
        assembly, state = rebuild_training(manifest, bundle / FOLDER, stored_batch(bundle / FOLDER))
        facts["step"] = retake_next_step(assembly, state, bundle / FOLDER, arrays)
    facts["device"] = device()
    facts["loaded"] = loaded = {}
    for role in keras_roles(manifest):
        try:
            weights = load(bundle, roles=[role])[role].weights
        except Exception as error:
            facts["failure"] = f"tapeworks.load fails: {why_not_rebuilt(error, repr(role))}"
            break
        loaded[role] = arrays.add(digest_rows([digest(weight.numpy()) for weight in weights]))
    write_observation(Path(into), facts, arrays.arrays)
    return {}


def keras_roles(manifest: Mapping[str, Any]) -> list[str]:
    """The roles of which the bundle has a `.keras` file."""
    return [role for role, entry in manifest["models"].items() if entry["keras"]]


def import_components(bundle: Path, manifest: dict[str, Any]) -> list[str]:
    """Import the bundle's component modules; the registry then holds them and nothing else."""
    if len(registry):
        names = ", ".join(f"{component.kind} {component.name}" for component in registry)
        raise RuntimeError(f"this process has components already ({names}): a certificate here would prove nothing")
    sys.path.insert(0, str(bundle / "components"))
    importlib.invalidate_caches()
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        for module in dict.fromkeys(entry["bundled_module"] for entry in manifest["components"]):
            importlib.import_module(module)
    except Exception as error:
        raise JobFailure(
            FailureCode.COMPONENT_ERROR,
            f"the components in the bundle cannot be imported: {type(error).__name__}: {error}",
            hint="A component's file may import installed packages, `tapeworks`, and modules of its own package.",
        ) from error
    finally:
        sys.dont_write_bytecode = written
    for component in registry:
        if component.file is None or not component.file.resolve().is_relative_to(bundle / "components"):
            raise RuntimeError(f"{component.kind} {component.name} was imported from {component.file}, not the bundle")
    for entry in manifest["components"]:  # a component of an uploaded package has the package's version
        found = registry.find(Kind(entry["kind"]), entry["name"])
        if found is not None:
            registry.replace(found.as_version(entry["version"]))
    return sorted(f"{component.kind} {component.name}@{component.version}" for component in registry)


if __name__ == "__main__":
    main(*sys.argv[1:])
