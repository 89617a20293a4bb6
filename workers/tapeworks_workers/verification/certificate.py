"""The certificate of a bundle: what two verifiers saw is compared, and the bundle is packed with what was found.

`main(…)` runs in a process of its own that imports none of the bundle's code and lives outside of every sandbox. It
reads three things: the bundle, whose files have the digests that the agent computed before any verifier was started
(`sealing.py`); what `reload.py` and `certify.py` wrote of it; and the agent's terms, a JSON file::

    {"verifiers": [those that loaded the bundle], "files": {name: {"bytes", "sha256"}}, "tolerance": t,
     "formats": [those of the job], "device": "cpu" | "gpu", "max_artifact_bytes": n, "pack": bool}

What the runner says of its bundle is believed where it makes no difference, and compared with the terms otherwise.
"""

from __future__ import annotations

import json
import resource
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.engine.comparison import versions
from tapeworks_workers.engine.export.next_step import FOLDER, TOLERANCE, compare_next_step
from tapeworks_workers.engine.export.packaging import BUNDLED_LOADER, CERTIFICATE, file_entry, seal
from tapeworks_workers.engine.observation import ObservationRefused, device_of, digest_rows, names_of, read_observation
from tapeworks_workers.processes.frames import finite
from tapeworks_workers.verification.certify import keras_roles
from tapeworks_workers.verification.reload_comparison import compare_reload

MEMORY_BYTES = 2 << 30
"""What a comparison may take, beside the stored arrays that it reads."""
_COPIES = 32
"""Of a stored array in half precision, in bytes, while it is compared in double precision."""
Compare = Callable[[Path, Mapping[str, Any], Path, str], dict[str, Any]]
"""Bundle, manifest, folder of what was seen, `gpu` or `cpu` → report."""


def main(bundle: str, observed: str, terms: str, into: str) -> dict[str, Any]:
    """Compare both observations, which lie below `observed`, and pack the bundle into the folder `into`.

    `terms`: the agent's file. Returns `verified`, and of what was packed `formats`, `archive` and `parts`; or a failure
    `reload_mismatch`, `not_serializable`, `component_error`, `storage_full`.
    """
    try:
        return _certified(Path(bundle), Path(observed), Path(terms), Path(into))
    except JobFailure as failure:
        about = {"message": failure.message, "hint": failure.hint, "retryable": failure.retryable}
        return {"failure": {"code": failure.code.value, **about}}


def _certified(folder: Path, observed: Path, terms: Path, into: Path) -> dict[str, Any]:
    agreed = json.loads(terms.read_text(encoding="utf-8"))
    _bound_memory(agreed["files"])
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        check_manifest(manifest, agreed)
    except UNREADABLE as error:
        raise _other(f"manifest.json is not that of an export: {type(error).__name__}: {error}") from error
    reports = {which: COMPARISONS[which](folder, manifest, observed, agreed["device"]) for which in agreed["verifiers"]}
    if not agreed["pack"]:
        return {"verified": finite(reports), "formats": [], "archive": None, "parts": {}}
    sealed = seal(folder, reports, into=into, files=agreed["files"], max_artifact_bytes=agreed["max_artifact_bytes"])
    return {
        "verified": finite(sealed.verified),
        "formats": sealed.formats,
        "archive": sealed.digests[sealed.bundle],
        "parts": {name: sealed.digests[part] for name, part in sealed.parts.items()},
    }


def _bound_memory(files: Mapping[str, Mapping[str, Any]]) -> None:
    """Let a file that unpacks to more than it is end this process with a MemoryError, and nothing else."""
    arrays = sum(entry["bytes"] for name, entry in files.items() if name.endswith(".npz"))
    text = Path("/proc/self/status").read_text()
    used = next(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("VmData:"))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    bound = used + MEMORY_BYTES + _COPIES * arrays
    resource.setrlimit(resource.RLIMIT_DATA, (bound if hard == resource.RLIM_INFINITY else min(bound, hard), hard))


UNREADABLE = (
    ObservationRefused, zipfile.BadZipFile, KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError,
    RecursionError, MemoryError,
)  # fmt: skip
"""What files raise that hold something else than what verifiers and exports write."""


def _comparing(compare: Compare, which: str) -> Compare:
    """The comparison, for which whatever a user's code wrote is a mismatch and no error of ours."""

    def run(folder: Path, manifest: Mapping[str, Any], observed: Path, kind: str) -> dict[str, Any]:
        try:
            return compare(folder, manifest, observed / which, kind)
        except UNREADABLE as error:
            raise JobFailure(
                FailureCode.RELOAD_MISMATCH,
                f"what the bundle's own code gave cannot be compared: {type(error).__name__}: {str(error)[:500]}",
                hint="A component may patch neither NumPy nor Keras in the process that loads its bundle.",
            ) from error

    return run


def _compare_certify(bundle: Path, manifest: Mapping[str, Any], observed: Path, kind: str) -> dict[str, Any]:
    """Compare what `certify.py` wrote: the report. Raises JobFailure `reload_mismatch`, ObservationRefused."""
    facts, arrays = read_observation(observed)
    report, off = compare_next_step(bundle / FOLDER, facts["step"], arrays, tolerance=TOLERANCE[kind])
    if off is not None:
        raise JobFailure(
            FailureCode.RELOAD_MISMATCH,
            f"one more training step from the bundle is not the step from memory: {off[:1000]}",
            hint="Training depends on state that is not in a variable: keep the state of a step, loss or layer in "
            "tf.Variable or keras.Variable, and draw random numbers from `run` or a keras.random.SeedGenerator.",
        )
    roles = keras_roles(manifest)
    for role in roles:
        if role not in facts["loaded"]:
            message = str(facts.get("failure") or f"tapeworks.load returned no {role!r}")
            raise JobFailure(FailureCode.RELOAD_MISMATCH, message[:2000])
        expected = digest_rows([entry["sha256"] for entry in manifest["models"][role]["weights"]])
        if not np.array_equal(arrays[facts["loaded"][role]["array"]], expected):
            raise JobFailure(FailureCode.RELOAD_MISMATCH, f"tapeworks.load gives {role!r} with other weights")
    return {
        "verifier": "certify", "step": report, "loaded": roles, "components": names_of(facts["components"]),
        "versions": versions(), "device": device_of(facts["device"]),
    }  # fmt: skip


def _compare_reload(bundle: Path, manifest: Mapping[str, Any], observed: Path, kind: str) -> dict[str, Any]:
    return compare_reload(bundle, manifest, observed)


COMPARISONS: dict[str, Compare] = {
    "reload": _comparing(_compare_reload, "reload"),
    "certify": _comparing(_compare_certify, "certify"),
}
"""Verifier → the comparison of what it wrote below a folder, under its name."""


def check_manifest(manifest: Mapping[str, Any], agreed: Mapping[str, Any]) -> None:
    """The manifest states the digests that the files have, the models, formats, tolerance and device of the job.

    Raises JobFailure `reload_mismatch`.
    """
    if CERTIFICATE in agreed["files"]:
        raise _other(f"the bundle already contains a {CERTIFICATE}")
    stated = manifest["files"]
    sealed = {name: entry for name, entry in agreed["files"].items() if name != "manifest.json"}
    for name in sorted({*stated, *sealed}):
        if stated.get(name) != sealed.get(name):
            raise _other(f"manifest.json states another digest of {name!r} than the file has")
    if sealed.get("load.py") != file_entry(BUNDLED_LOADER):
        raise _other("load.py is not the one that the worker puts into bundles")
    if manifest["tolerance"] != agreed["tolerance"]:
        raise _other(f"manifest.json states the tolerance {manifest['tolerance']!r}, the job {agreed['tolerance']!r}")
    if device_of(manifest["device"])["kind"] == "gpu" and agreed["device"] != "gpu":
        raise _other("manifest.json states that the job ran on a GPU, and it holds none")
    _check_models(manifest["models"], agreed)


def _check_models(models: Mapping[str, Any], agreed: Mapping[str, Any]) -> None:
    """There is a model, and of each the formats of the job and a probe, under the names that an export gives them."""
    if not models:
        raise _other("manifest.json lists no model")
    for role, entry in models.items():
        names = {"keras": f"models/{role}.keras", "saved_model": f"saved_model/{role}/1"}
        for form, name in names.items():
            if entry[form] != (name if form in agreed["formats"] else None):
                raise _other(f"manifest.json states {entry[form]!r} for the {form} format of {role!r}")
        probe = entry["probe"]
        needed = {probe["file"], *([names["keras"]] if entry["keras"] else [])}
        if probe["file"] != f"probes/{role}.npz" or not probe["batches"] or not needed <= agreed["files"].keys():
            raise _other(f"the bundle has no probe of {role!r}, or lacks its model")


def _other(message: str) -> JobFailure:
    hint = "The bundle changed after it was written: export the job again."
    return JobFailure(FailureCode.RELOAD_MISMATCH, message[:1000], hint=hint)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])) + "\n")
