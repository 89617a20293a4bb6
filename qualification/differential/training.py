"""The set-up trained by the engine: its own runner's parts, in this process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
import numpy as np

from qualification.differential import components, fitting
from qualification.differential.parts import Part
from qualification.differential.setups import BATCH, Setup
from tapeworks import from_keras
from tapeworks.spec.job_spec import JobSpec
from tapeworks_workers.engine.data.pipeline import build_data
from tapeworks_workers.engine.reporting import Reporter
from tapeworks_workers.engine.step.assembly import assemble
from tapeworks_workers.engine.training.control import Control
from tapeworks_workers.engine.training.setup import datasets, trace_functions


def spec_of(setup: Setup, model: keras.Model) -> JobSpec:
    """The job's spec: by `from_keras`, or as a user writes it."""
    data: dict[str, Any] = {
        "source": {"component": "differential/Held", "config": {"name": "training"}},
        "pipeline": [{"op": "batch", "batch_size": BATCH}],
    }
    if setup.validation is not None:
        data["validation"] = {"component": "differential/Held", "config": {"name": "validation"}}
    training = {
        "precision": setup.precision,
        "checkpoint": None,
        "report_every_steps": 1,
        "execution": {"plan": setup.plan},
        "steps_per_epoch": setup.steps_per_epoch,
    }
    if not setup.by_hand:
        made = from_keras(model, data=data, epochs=setup.epochs, training=training)
    else:
        made = JobSpec.model_validate(
            {**_by_hand(setup), "data": data, "training": {**training, "epochs": setup.epochs}}
        )
    return JobSpec.model_validate(made.document())  # as it comes back from the wire


def trained(setup: Setup, spec: JobSpec) -> fitting.Training:
    """Train it. Raises what the engine raises."""
    components.ARRAYS.clear()
    for name, split in (("training", setup.training), ("validation", setup.validation)):
        if split is not None:
            components.ARRAYS[name] = fitting.elements(_weighted(split, setup) if name == "training" else split)
    records: list[dict[str, Any]] = []

    def send(frame: dict[str, Any]) -> None:
        if frame["type"] == "record":
            records.append(frame["record"])

    data = build_data(spec)
    assembly = assemble(spec, data.element_spec, datasets=datasets(data))
    model = assembly.models["model"]
    names, start = fitting.values(model)
    with TemporaryDirectory() as folder:
        training, _ = trace_functions(assembly, data, reporter=Reporter(send), control=Control(), folder=Path(folder))
        training.train()
    reported = {one["step"]: one["values"]["loss"] for one in records if one["record"] == "metric"}
    epochs = [one["data"]["logs"] for one in records if one["record"] == "event" and one["type"] == "epoch"]
    history = {name: [logs[name] for logs in epochs] for name in epochs[0]}
    losses = [reported[step] for step in sorted(reported)]
    return fitting.Training(names, start, fitting.values(model)[1], losses, history)


def _weighted(split: tuple[Any, ...], setup: Setup) -> tuple[Any, ...]:
    """The split with class weights as weights of examples."""
    if setup.class_weight is None:
        return split
    weights = [setup.class_weight.get(int(label), 1.0) for label in np.ravel(split[1])]
    return (*split, np.array(weights))


def _by_hand(setup: Setup) -> dict[str, Any]:
    spec: dict[str, Any] = {"model": setup.model.component, "optimizer": setup.optimizer.reference()}
    named = isinstance(setup.loss, Mapping)
    if named or setup.loss_weights is not None:
        losses = setup.loss if named else {"0": setup.loss}  # the one output
        weights = setup.loss_weights if named else dict.fromkeys(losses, setup.loss_weights)
        spec["loss"] = {
            "outputs": {
                name: {**one.reference(), "weight": 1.0 if weights is None else weights[name]}
                for name, one in losses.items()
                if one is not None
            }
        }
    elif setup.loss is not None:
        spec["loss"] = setup.loss.reference()
    metrics: dict[str, list[dict[str, Any]]] = {name: [] for name in setup.model.heads}
    for given, weighted in ((setup.metrics, False), (setup.weighted_metrics, True)):
        if given is None:
            continue
        by_name = given if isinstance(given, Mapping) else dict.fromkeys(setup.model.heads, given)
        for name, parts in by_name.items():
            metrics[name] += [{**_named(part), "weighted": weighted} for part in parts]
    if setup.model.structure == "dict":
        return {**spec, "metrics": {"outputs": {name: parts for name, parts in metrics.items() if parts}}}
    return {**spec, "metrics": next(iter(metrics.values()))}


def _named(part: Part) -> dict[str, Any]:
    """A metric by its short name has that name."""
    reference = part.reference()
    if part.form not in ("instance", "function"):
        reference["config"]["name"] = part.form
    return reference
