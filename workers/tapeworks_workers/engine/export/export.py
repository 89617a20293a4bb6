"""Export: from an assembly in training memory to a bundle's folder, before it is verified.

    load.py               short, needs no Tapeworks: loads the models, proves them
    manifest.json         spec, versions, metrics, digests; per role the files, weights' digests and the probe
    models/ROLE.keras     compiled with the job's optimizer, loss and metrics where `fit` can go on
    saved_model/ROLE/1/   serving_default and the step's signatures
    probes/ROLE.npz       real inputs and what the trained model gave for them
    training_state/       every value of the job, one batch, and what one more step gives (next_step.py)
    components/           the sources of the custom components (component_sources.py)

`export_bundle` leaves the assembly's state as it was. `reload.py` and `certify.py` verify the folder, `bundle.seal`
packs it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.engine.comparison import device, digest, versions
from tapeworks_workers.engine.export import class_signature
from tapeworks_workers.engine.export.component_sources import copy_sources, used_components
from tapeworks_workers.engine.export.model_files import compile_arguments, compiled, save_keras, save_saved_model
from tapeworks_workers.engine.export.next_step import FOLDER as TRAINING_STATE
from tapeworks_workers.engine.export.next_step import write_next_step
from tapeworks_workers.engine.export.packaging import BUNDLED_LOADER, FORMAT, bundle_files, file_entry, write_json
from tapeworks_workers.engine.export.probes import probe_inputs, write_probe
from tapeworks_workers.engine.export.tensor_json import spec_document
from tapeworks_workers.engine.factory.earlier_jobs import ARCHITECTURES
from tapeworks_workers.engine.step.assembly import Assembly
from tapeworks_workers.engine.step.compiled_step import CompiledStep

MAX_PROBES = 2
"""Batches that each model is probed with."""


@dataclass(frozen=True)
class BundleDraft:
    """An exported bundle that nobody has verified yet."""

    folder: Path
    manifest: dict[str, Any]
    models: list[str]
    formats: list[str]
    notes: list[str] = field(default_factory=list)
    """What a bundle of a job with class names lacks, a sentence for each model."""


def export_bundle(
    assembly: Assembly,
    step: CompiledStep,
    *,
    counters: dict[str, Any],
    batches: Sequence[Any],
    folder: Path,
    metrics: Mapping[str, float],
    lineage: Mapping[str, Any],
    class_names: Any = None,
) -> BundleDraft:
    """Write the bundle below `folder`, which must not exist.

    `step`: the one that trained it. `batches`: one or more real training batches, nests of host arrays as the step
    takes them; `counters`: what checkpoints keep of the loop.
    `class_names`: of the labels. Raises JobFailure `not_serializable`, `invalid_spec`.
    """
    export = assembly.spec.export
    if export is None or not batches:
        raise ValueError("nothing can be exported: the spec's export is null, or no batch was given")
    folder.mkdir(parents=True)
    roles = exported_roles(assembly)
    signatures = assembly.step.signatures(assembly.models)
    write_next_step(assembly, step, counters, batches[0], folder / TRAINING_STATE)
    write_json(folder / TRAINING_STATE / ARCHITECTURES, assembly.architectures)
    models: dict[str, Any] = {}
    notes: list[str] = []
    for role in roles:
        own = signatures.get(role, {})
        models[role] = _export_model(assembly, role, batches, folder, export.formats, own, class_names, notes)
    used = used_components(assembly.spec.document(), model_configs(assembly))
    manifest = {
        "format": FORMAT,
        "spec": assembly.spec.document(),
        "element_spec": spec_document(assembly.element_spec),
        "models": models,
        "tolerance": export.tolerance,
        "floatx": keras.config.floatx(),
        "dtype_policy": keras.config.dtype_policy().name,
        "metrics": {name: float(value) for name, value in metrics.items() if np.isfinite(value)},
        "lineage": dict(lineage),
        "class_names": class_names,
        "counters": counters,
        "versions": {**versions(), "tapeworks": metadata.version("tapeworks")},
        "device": device(),
        "components": copy_sources(used, folder / "components"),
    }
    shutil.copyfile(BUNDLED_LOADER, folder / "load.py")
    manifest["files"] = {name: file_entry(folder / name) for name in bundle_files(folder)}
    write_json(folder / "manifest.json", manifest)
    return BundleDraft(folder, manifest, roles, list(export.formats), notes)


def exported_roles(assembly: Assembly) -> list[str]:
    """`export.models`, else the step's `exported`, else every model that it trains, in its order.

    Raises JobFailure `invalid_spec`.
    """
    wanted: Sequence[str] | None = assembly.spec.export.models if assembly.spec.export is not None else None
    wanted = assembly.step.exported if wanted is None else wanted
    if wanted is None:
        trained = {role for roles in assembly.step.optimizers.values() for role in roles}
        return [role for role in assembly.models if role in trained] or list(assembly.models)
    unknown = [role for role in wanted if role not in assembly.models]
    if unknown:
        raise JobFailure(
            FailureCode.INVALID_SPEC,
            f"export.models names {', '.join(map(repr, unknown))}; the step has {', '.join(assembly.models)}",
        )
    return list(wanted)


def _coarsest(model: keras.Model) -> str:
    """The dtype that rounds most of those in which the model computes: a layer may have a policy of its own."""
    used = {layer.compute_dtype for layer in model._flatten_layers()}
    return next((name for name in ("bfloat16", "float16") if name in used), str(model.compute_dtype))


def _export_model(
    assembly: Assembly,
    role: str,
    batches: Sequence[Any],
    folder: Path,
    formats: Sequence[str],
    signatures: Mapping[str, Any],
    class_names: Any,
    notes: list[str],
) -> dict[str, Any]:
    model, spec = assembly.models[role], assembly.input_specs[role]
    inputs = [probe_inputs(spec, batch) for batch in batches[:MAX_PROBES]]
    probe_file = f"probes/{role}.npz"
    entry: dict[str, Any] = {
        "keras": None,
        "saved_model": None,
        "compiled": False,
        "compute_dtype": _coarsest(model),
        "input_spec": spec_document(spec),
        "weights": _digests(model.weights),
        "optimizer_weights": [],
        "classify": None,
        "probe": {"file": probe_file, **write_probe(model, inputs, folder / probe_file)},
    }
    if class_names is not None and class_signature.CLASSIFY not in signatures:
        outputs = entry["probe"]["batches"][0]["outputs"]
        entry["classify"], why = class_signature.found(outputs, assembly.losses.get(role), class_names)
        if why is not None:
            notes.append(f"the model {role!r} has no signature {class_signature.CLASSIFY!r} with class names: {why}")
    if "keras" in formats:
        arguments = compile_arguments(assembly, role)
        entry["keras"] = f"models/{role}.keras"
        entry["compiled"] = arguments is not None
        entry["optimizer_weights"] = _digests(save_keras(model, folder / entry["keras"], arguments))
    if "saved_model" in formats:
        entry["saved_model"] = f"saved_model/{role}/1"
        target = folder / entry["saved_model"]
        about = entry["classify"]
        classify = None if about is None else partial(class_signature.answers, about, class_names)
        entry["serving"] = save_saved_model(model, spec, signatures, target, others=assembly.models, classify=classify)
    return entry


def _digests(variables: Sequence[Any]) -> list[dict[str, Any]]:
    return [
        {"path": v.path, "shape": list(v.shape), "dtype": str(v.dtype), "sha256": digest(v.numpy())} for v in variables
    ]


def model_configs(assembly: Assembly) -> list[Any]:
    """The serialised models with what they are compiled with: in them stands every custom class that a reload needs."""
    configs = []
    for role, model in assembly.models.items():
        with compiled(model, compile_arguments(assembly, role)):
            configs.append(keras.saving.serialize_keras_object(model))
    return [*configs, assembly.architectures]
