"""Components of an author tried as a worker and a job would, before either sees them.

    load → admit (build, save, reload, trace, differentiate) → the same in a process without Tapeworks (alone.py)
         → losses: their gradient against numeric differences in float64

Interface: `try_components(paths)` gives a `Finding` for every component of files and folders.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks.components.examples import Form
from tapeworks.components.loading import load_components, load_installed
from tapeworks.components.registry import KERAS_KINDS, Component
from tapeworks.errors import TapeworksError
from tapeworks.schemas.jobs import RefusedComponent
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.admission import isolated_reload
from tapeworks_workers.engine.admission.admission import admit
from tapeworks_workers.engine.admission.admission_checks import WEIGHTS
from tapeworks_workers.engine.data.example_tensors import NotTried, Part
from tapeworks_workers.engine.export.component_sources import copy_sources
from tapeworks_workers.engine.export.tensor_json import Arrays
from tapeworks_workers.engine.factory.factory import build

_NUMERIC_STEP = 1e-6
_NUMERIC_TOLERANCE = 1e-4
_EXAMPLES = 8
"""Of each unknown dimension: two classes have several then, without which a loss of triplets has no gradient."""
_NUMERIC_ELEMENTS = 24
"""Elements of y_pred whose derivative is compared."""


@dataclass
class Finding:
    """What was found of one component or job."""

    name: str
    kind: str
    problems: list[str] = field(default_factory=list)
    """What would fail as a job."""
    notes: list[str] = field(default_factory=list)


def try_components(paths: Sequence[Path]) -> list[Finding]:
    """Try every component that files and folders hold. Raises ComponentError."""
    load_installed()
    components = load_components(paths)
    findings = {(one.kind, one.name): _admitted(one) for one in components}
    for component, problem in _in_another_process([one for one in components if not _of(findings, one).problems]):
        _of(findings, component).problems.append(problem)
    for component in components:
        if component.kind is Kind.LOSS and not _of(findings, component).problems:
            _check_gradient(component, _of(findings, component))
    return list(findings.values())


def _of(findings: dict[tuple[Kind, str], Finding], component: Component) -> Finding:
    return findings[component.kind, component.name]


def _admitted(component: Component) -> Finding:
    verdict = admit(component)
    if isinstance(verdict, RefusedComponent):
        return Finding(component.name, component.kind.value, problems=[verdict.reason])
    return Finding(component.name, component.kind.value, notes=list(verdict.warnings))


def _built(component: Component, example: dict[str, Any]) -> Any:
    reference = {"component": component.name, "config": example.get("config", {})}
    return build(reference, component.kind)


# ── in another process ───────────────────────────────────────────────────────────────────────────


def _in_another_process(components: Sequence[Component]) -> Iterator[tuple[Component, str]]:
    """Components of Keras' kinds that do not come back where Tapeworks cannot be imported, and why."""
    arrays, objects = Arrays(), []
    mine = {one.name: one for one in components if one.kind in KERAS_KINDS}
    for component in mine.values():
        with suppress(Exception):  # nothing to try it on, or it fails on invented values: admission has noted it
            objects.append(_written(component, arrays))
    if not objects:
        return
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as name:
        folder = Path(name)
        document = {
            "floatx": keras.config.floatx(),
            "objects": objects,
            "components": copy_sources(mine.values(), folder / "components"),
        }
        (folder / "objects.json").write_text(json.dumps(document), encoding="utf-8")
        arrays.write(folder / "values.npz")
        shutil.copyfile(Path(__file__).parents[1] / "export" / "bundled" / "load.py", folder / "load.py")
        command = [sys.executable, "-I", isolated_reload.__file__, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(f"the process without Tapeworks ended with {done.returncode}: {done.stderr[-2000:]}")
    for component_name, problem in json.loads(done.stdout.splitlines()[-1]).items():
        if problem is not None:
            yield mine[component_name], problem


def _written(component: Component, arrays: Arrays) -> dict[str, Any]:
    """The object, its weights, and what it gives for its example's inputs. Raises NotTried."""
    example = dict(component.example or {})
    instance = _built(component, example)
    inputs = Part(_inputs(component.kind, example)).values
    outputs = isolated_reload.observe(component.kind.value, instance, inputs)
    weights = instance.get_weights() if component.kind in (Kind.LAYER, Kind.MODEL) else None
    return {
        "component": component.name,
        "kind": component.kind.value,
        "config": json.loads(json.dumps(keras.saving.serialize_keras_object(instance))),
        "weights": arrays.add(weights),
        "inputs": arrays.add(inputs),
        "outputs": arrays.add(outputs),
    }


def _inputs(kind: Kind, example: dict[str, Any]) -> list[Any]:
    defaults = {
        Kind.REGULARIZER: [WEIGHTS],
        Kind.CONSTRAINT: [WEIGHTS],
        Kind.SCHEDULE: [Form((), "int64")],
        Kind.LOSS: [Form((None, 1), "float32")] * 2,
        Kind.METRIC: [Form((None, 1), "float32")] * 2,
        Kind.INITIALIZER: [],
        Kind.OPTIMIZER: [],
    }
    if kind in (Kind.LOSS, Kind.METRIC) and {"y_true", "y_pred"} <= example.keys():
        return [example["y_true"], example["y_pred"]]
    if "inputs" in example:
        return [example["inputs"]]
    if kind not in defaults:
        raise NotTried("it has no example with 'inputs'")
    return defaults[kind]


# ── the gradient of a loss ───────────────────────────────────────────────────────────────────────


def _check_gradient(component: Component, finding: Finding) -> None:
    """Compare the tape's gradient with central differences, both in float64."""
    example = dict(component.example or {})
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:
        loss = _built(component, example)
        part = Part(_inputs(Kind.LOSS, example), size=_EXAMPLES)
        y_true, y_pred = map(_in_float64, part.values)
        with tf.GradientTape() as tape:
            tape.watch(y_pred)
            value = loss(y_true, y_pred)
        gradient = tape.gradient(value, y_pred)
        if gradient is None or not np.any(gradient):
            found = "its gradient with respect to y_pred is zero everywhere: nothing would be trained"
            if part.invented and gradient is not None:
                finding.notes.append(f"on invented values: {found}. Give real values in its example")
            else:
                finding.problems.append(found)
            return
        worst = _largest_difference(loss, y_true, np.asarray(y_pred), np.asarray(gradient))
    except (TapeworksError, ValueError, TypeError, tf.errors.OpError) as error:
        finding.notes.append(f"its gradient was not compared in float64: {type(error).__name__}: {error}")
        return
    finally:
        keras.config.set_floatx(before)
    if worst > _NUMERIC_TOLERANCE:
        finding.problems.append(
            f"its gradient differs from numeric differences by {worst:.2g} of the largest: "
            "is a part of it stopped (tf.stop_gradient), rounded, or computed outside of TensorFlow?"
        )


def _in_float64(tensor: Any) -> Any:
    return tf.cast(tensor, tf.float64) if tensor.dtype.is_floating else tensor


def _largest_difference(loss: Any, y_true: Any, y_pred: np.ndarray, gradient: np.ndarray) -> float:
    """Relative to the largest derivative; strided over the elements."""
    flat = y_pred.ravel()
    stride = max(1, flat.size // _NUMERIC_ELEMENTS)
    worst = 0.0
    for index in range(0, flat.size, stride):
        values = []
        for sign in (1.0, -1.0):
            moved = flat.copy()
            moved[index] += sign * _NUMERIC_STEP
            values.append(float(loss(y_true, tf.constant(moved.reshape(y_pred.shape)))))
        numeric = (values[0] - values[1]) / (2.0 * _NUMERIC_STEP)
        worst = max(worst, abs(numeric - float(gradient.ravel()[index])))
    return worst / max(float(np.abs(gradient).max()), 1e-12)
