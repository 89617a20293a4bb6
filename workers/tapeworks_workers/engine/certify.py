"""Verifier B: the bundle alone is enough to go on training.

`main(bundle)` runs in a fresh process whose registry is empty: a fork of the base zygote, or
`python -m tapeworks_workers.engine.certify BUNDLE`. It imports the bundle's components, and no others, as real
components; puts the job together from the manifest's spec; restores `training_state/`; takes one more step on the
stored batch. Loss and values must be those that training memory recorded, within `next_step.TOLERANCE`. A `.keras`
file alone could not do that: it keeps neither seeds nor an optimizer that spans two models. At the end `tapeworks.load`
must give each model with the weights that were exported.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from pathlib import Path
from typing import Any

from tapeworks.bundle import load
from tapeworks.components import registry
from tapeworks.errors import FailureCode, JobFailure
from tapeworks.references import Kind
from tapeworks_workers.engine.again import put_together_again, verified
from tapeworks_workers.engine.comparison import device, digest, versions, why_not_rebuilt
from tapeworks_workers.engine.next_step import FOLDER, TOLERANCE, compare_next_step, device_kind, stored_batch


def main(bundle: Path) -> dict[str, Any]:
    """Certify the bundle in this folder: a report. Raises JobFailure `reload_mismatch`, or what building raises."""
    bundle = Path(bundle).resolve()
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    components = import_components(bundle, manifest)
    tolerance = TOLERANCE["gpu" if "gpu" in (device_kind(), manifest["device"]["kind"]) else "cpu"]
    with verified("the bundle"):
        assembly, state = put_together_again(manifest, bundle / FOLDER, stored_batch(bundle / FOLDER))
        report, off = compare_next_step(assembly, state, bundle / FOLDER, tolerance=tolerance)
    if off is not None:
        raise JobFailure(
            FailureCode.RELOAD_MISMATCH,
            f"one more training step from the bundle is not the step from memory: {off}",
            hint="Something that training depends on is no variable: keep the state of a step, loss or layer in "
            "tf.Variable or keras.Variable, and draw random numbers from `run` or a keras.random.SeedGenerator.",
        )
    loaded = _loaded(bundle, manifest)
    return {
        "verifier": "certify", "step": report, "loaded": loaded, "components": components, "versions": versions(),
        "device": device(),
    }  # fmt: skip


def _loaded(bundle: Path, manifest: dict[str, Any]) -> list[str]:
    """The roles that `tapeworks.load` gives. Raises JobFailure `reload_mismatch`."""
    roles = [role for role, entry in manifest["models"].items() if entry["keras"]]
    for role in roles:
        try:
            model = load(bundle, roles=[role])[role]
        except Exception as error:
            what = why_not_rebuilt(error, repr(role))
            raise JobFailure(FailureCode.RELOAD_MISMATCH, f"tapeworks.load fails: {what}") from error
        expected = manifest["models"][role]["weights"]
        if [digest(weight.numpy()) for weight in model.weights] != [entry["sha256"] for entry in expected]:
            raise JobFailure(FailureCode.RELOAD_MISMATCH, f"tapeworks.load gives {role!r} with other weights")
    return roles


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


def _script(bundle: str) -> int:
    try:
        answer: dict[str, Any] = main(Path(bundle))
    except JobFailure as failure:
        answer = {"failure": {"code": failure.code.value, "message": failure.message, "hint": failure.hint}}
    except Exception as error:
        traceback.print_exc()
        answer = {"failure": {"code": "internal", "message": f"{type(error).__name__}: {error}", "hint": ""}}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 1 if "failure" in answer else 0


if __name__ == "__main__":
    sys.exit(_script(sys.argv[1]))
