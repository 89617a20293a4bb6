"""One step of a black box, taken again under TensorFlow's numeric checks: which operation gave the first NaN or Inf.

`python -m tapeworks_workers.verification.replay FOLDER` reads an unpacked box in a process of its own, whose registry
is empty, imports the box's components and no others, and prints one line of JSON. `tapeworks replay` starts it.
"""

from __future__ import annotations

import json
import linecache
import re
import sys
import traceback
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.engine.checkpoints.snapshot import Snapshot
from tapeworks_workers.engine.diagnostics.source_locations import location
from tapeworks_workers.engine.export.bundled.load import nest
from tapeworks_workers.engine.export.next_step import verified
from tapeworks_workers.engine.step.assembly import Assembly
from tapeworks_workers.engine.step.compiled_step import TRAINING, compile_train_step
from tapeworks_workers.engine.step.state import restore
from tapeworks_workers.engine.training.black_box import FORMAT, TRAINING_STATE
from tapeworks_workers.verification.certify import import_components
from tapeworks_workers.verification.rebuild import rebuild_training

_OPERATION = re.compile(r'in output (\d+) of (?:graph|eagerly-executing) op "([^"]+)"')
_COUNTS = re.compile(r"# of (\S+) elements: (\d+)")


def main(folder: Path) -> dict[str, Any]:
    """Replay the box in this folder: a report. Raises JobFailure, or what a component raises."""
    with verified("the black box"):
        return _replayed(Path(folder).resolve())


def _replayed(folder: Path) -> dict[str, Any]:
    box = json.loads((folder / "black_box.json").read_text(encoding="utf-8"))
    if box["format"] > FORMAT:
        raise JobFailure(FailureCode.NOT_SUPPORTED, f"the black box has format {box['format']}, known is {FORMAT}")
    import_components(folder, box)
    keras.config.disable_traceback_filtering()
    with np.load(folder / "batch.npz", allow_pickle=False) as stored:
        batch = nest(box["batch"], dict(stored))
    assembly, state = rebuild_training(box, folder / TRAINING_STATE, batch)
    # Tracing makes the last variables.
    plain = compile_train_step(assembly, eager=assembly.spec.training.execution.plan == "eager")
    restore(assembly, state)
    before = assembly.means[TRAINING].numpy()[-1]
    scalars = {name: float(value) for name, value in plain(batch).items()}
    report = {name: box[name] for name in ("step", "epoch", "what", "gradient_norms", "without_norms")}
    return {
        **report,
        "reproduced": bool(assembly.means[TRAINING].numpy()[-1] == before),
        "scalars": {name: value if np.isfinite(value) else str(value) for name, value in scalars.items()},
        "found": _checked(assembly, state, batch, folder),
    }


def _checked(assembly: Assembly, state: Snapshot, batch: Any, folder: Path) -> dict[str, Any] | None:
    """The first operation that gives what is not finite. Without a graph first: there Python knows each line."""
    tf.debugging.enable_check_numerics()
    for eager in (True, False):
        restore(assembly, state)
        try:
            compile_train_step(assembly, eager=eager)(batch)
        except tf.errors.InvalidArgumentError as error:
            match = _OPERATION.search(str(error))
            if match is None:
                raise
            return {
                "operation": match[2],
                "output": int(match[1]),
                "elements": {kind: int(count) for kind, count in _COUNTS.findall(str(error))},
                "location": _place(error, folder),
            }
    return None


def _place(error: Exception, folder: Path) -> dict[str, Any] | None:
    found = location(error)
    if found is None or found.file is None:
        return None
    file = Path(found.file)
    name = file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file)
    code = linecache.getline(found.file, found.line or 0).strip()
    return {"file": name, "line": found.line, "component": found.component, "code": code}


def _script(folder: str) -> int:
    try:
        answer: dict[str, Any] = main(Path(folder))
    except JobFailure as failure:
        answer = {"failure": {"code": failure.code.value, "message": failure.message}}
    except Exception as error:
        traceback.print_exc()
        answer = {"failure": {"code": "internal", "message": f"{type(error).__name__}: {error}"}}
    sys.stdout.write("\n" + json.dumps(answer) + "\n")
    return 1 if "failure" in answer else 0


if __name__ == "__main__":
    sys.exit(_script(sys.argv[1]))
