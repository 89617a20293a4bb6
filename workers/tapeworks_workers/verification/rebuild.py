"""A job put together again from what it left: a bundle in verifier B, a black box in `replay`.

The process holds the components of that folder and no others. Beside the spec and the element, `training_state/` and
one batch are all there is: what layers learned is put back, and models of earlier jobs come from their architectures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from tapeworks.spec.job_spec import JobSpec
from tapeworks_workers.engine.checkpoints.snapshot import Snapshot, read_values
from tapeworks_workers.engine.export.tensor_json import spec_from_document
from tapeworks_workers.engine.factory.earlier_jobs import ARCHITECTURES, Inputs
from tapeworks_workers.engine.models.initial_state import InitialState
from tapeworks_workers.engine.runtime import prepare
from tapeworks_workers.engine.step.assembly import Assembly, assemble


def rebuild_training(document: Mapping[str, Any], state: Path, batch: Any) -> tuple[Assembly, Snapshot]:
    """The job, and the values that are to be restored once its step is traced.

    `document`: holds `spec` and `element_spec`; `state`: the folder of values, counters and architectures. Raises
    JobFailure.
    """
    spec = JobSpec.model_validate_json(json.dumps(document["spec"]))
    prepare(spec)
    # A step's build may look at the data; what it makes of it there is restored, so the one batch we have will do.
    data = tf.data.Dataset.from_tensors(batch)
    datasets = {"training": data, **({"validation": data} if spec.data.validation is not None else {})}
    values = read_values(state)
    architectures = json.loads((state / ARCHITECTURES).read_text(encoding="utf-8"))
    start = InitialState(restored=values.values, inputs=Inputs(architectures=architectures))
    element_spec = spec_from_document(document["element_spec"])
    return assemble(spec, element_spec, datasets=datasets, start=start), values
