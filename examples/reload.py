"""Loads bundles where Tapeworks cannot be imported, each in a process of its own: python -I examples/reload.py BUNDLE…

For each bundle its own load.py compares every model with the stored outputs of the trained one; then each SavedModel
is loaded with plain `tf.saved_model.load`, before any custom class is known, and compared too. Prints a JSON object a
bundle: {"bundle", "ok", "saved_model": the largest difference, "text"}. TensorFlow is imported once, and forked.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import io
import json
import os
import runpy
import sys
import traceback
from contextlib import redirect_stdout
from pathlib import Path


class _Barred(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tapeworks", "tapeworks_workers", "tapeworks_service"):
            raise ModuleNotFoundError(f"{name} cannot be imported here", name=name)


def main(bundles: list[str]) -> int:
    """Load each bundle in a child; 0 if all came back as they were."""
    sys.meta_path.insert(0, _Barred())
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras  # noqa: F401  # imported here, once, and never used before the fork
    import tensorflow  # noqa: F401

    failed = 0
    for bundle in bundles:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            _child(Path(bundle))
        failed += os.waitpid(child, 0)[1] != 0
    return 1 if failed else 0


def _child(bundle: Path) -> None:
    text, ok, apart = io.StringIO(), False, None
    try:
        with redirect_stdout(text):
            apart = _saved_models(bundle)
            sys.argv = [str(bundle / "load.py")]
            try:
                runpy.run_path(sys.argv[0], run_name="__main__")
            except SystemExit as ended:
                ok = not ended.code
    except Exception:
        traceback.print_exc(file=text)
    print(json.dumps({"bundle": str(bundle), "ok": ok, "saved_model": apart, "text": text.getvalue()}), flush=True)
    os._exit(0 if ok else 1)


def _saved_models(bundle: Path) -> float:
    """The largest difference of a SavedModel's outputs from the trained model's. Raises where it is too large."""
    import numpy as np
    import tensorflow as tf

    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    nest = _nest_of(bundle)
    largest = 0.0
    for role, entry in manifest["models"].items():
        if not entry["saved_model"]:
            continue
        with np.load(bundle / entry["probe"]["file"], allow_pickle=False) as file:
            arrays = dict(file)
        loaded = tf.saved_model.load(str(bundle / entry["saved_model"]))
        for batch in entry["probe"]["batches"]:
            expected = tf.nest.flatten(nest(batch["outputs"], arrays), expand_composites=True)
            found = tf.nest.flatten(loaded.serving_default(nest(batch["inputs"], arrays)), expand_composites=True)
            for a, b in zip(expected, found, strict=True):
                scale = max(1.0, float(np.abs(a).max(initial=0.0)))
                apart = float(np.abs(np.subtract(a, b, dtype=np.float64)).max(initial=0.0)) / scale
                rounding = {"float16": 2.0**-8, "bfloat16": 2.0**-5}.get(entry["compute_dtype"], 0.0)
                if not apart <= max(manifest["tolerance"], rounding):
                    raise ValueError(f"the SavedModel of {role!r} differs by {apart:.3g}")
                largest = max(largest, apart)
    return largest


def _nest_of(bundle: Path):
    """`nest` of the bundle's load.py, without its import of the custom classes."""
    spec = importlib.util.spec_from_file_location("bundle_nest", bundle / "load.py")
    source = (bundle / "load.py").read_text(encoding="utf-8").rpartition("\nif __name__")[0]
    module = importlib.util.module_from_spec(spec)
    exec(compile(source, str(bundle / "load.py"), "exec"), vars(module))  # noqa: S102  # ours, of a job we ran
    return module.nest


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
