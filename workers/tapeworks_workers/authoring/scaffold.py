"""A package to start from: a component, its test and an example job, from the template of its kind.

`templates/KIND.txt` holds three parts: the module, `=== test`, `=== job` (what the example job has that the plain one
has not). Nothing here imports TensorFlow.
"""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapeworks.errors import ComponentError
from tapeworks.spec.references import COMPONENT_NAME, Kind

TEMPLATES = Path(__file__).parent / "templates"
_PLAIN_JOB = {
    "data": {
        "source": "digits",
        "validation": 0.2,
        "pipeline": [{"op": "shuffle", "buffer_size": 2000}, {"op": "batch", "batch_size": 32}],
    },
    "model": {"component": "mlp", "config": {"hidden": [32], "outputs": 10}},
    "optimizer": "keras/Adam",
    "loss": {"component": "keras/SparseCategoricalCrossentropy", "config": {"from_logits": True}},
    "metrics": ["keras/SparseCategoricalAccuracy"],
    "training": {"epochs": 3},
}
_PROJECT = """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "{distribution}"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["tapeworks[worker]"]

[project.entry-points."tapeworks.components"]
{module} = "{module}"

[tool.hatch.build.targets.wheel]
include = ["{module}.py"]

[tool.pytest.ini_options]
pythonpath = ["."]
"""


@dataclass(frozen=True)
class Names:
    """What the parts of a package are called."""

    component: str
    """`acme/WarmLoss`."""
    module: str
    """`acme_warm_loss`."""
    target: str
    """The class `WarmLoss`, or `warm_loss` where the component is a function."""


def names_of(component: str) -> Names:
    """The names of a package for one component. Raises ComponentError where it cannot be named so."""
    package, slash, bare = component.partition("/")
    usable = bare.isidentifier() and not keyword.iskeyword(bare.lower())
    if not re.fullmatch(COMPONENT_NAME, component) or not slash or package == "keras" or not usable:
        raise ComponentError(
            f"{component!r} is not a component name: write package/Name, such as acme/WarmLoss, with letters, "
            "digits and '_' (the package 'keras' is Keras' own)"
        )
    return Names(component, f"{re.sub(r'[^a-z0-9_]', '_', package.lower())}_{_snake(bare)}", bare)


def write_package(component: str, kind: Kind, folder: Path | None = None) -> Path:
    """Write the package into `folder` (default: one of the module's name here). Raises ComponentError; nothing is
    written over."""
    names = names_of(component)
    folder = Path(names.module) if folder is None else folder
    if folder.exists() and any(folder.iterdir()):
        raise ComponentError(f"{folder} exists and is not empty: name another with --folder")
    code, test, job = _parts(kind, names)
    document = _merged(_PLAIN_JOB, {"name": f"{component} on its first job", **json.loads(job)})
    files = {
        f"{names.module}.py": code,
        f"tests/test_{names.module}.py": test,
        "job.json": json.dumps(document, indent=2) + "\n",
        "pyproject.toml": _PROJECT.format(distribution=names.module.replace("_", "-"), module=names.module),
    }
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return folder


def _parts(kind: Kind, names: Names) -> list[str]:
    text = (TEMPLATES / f"{kind.value}.txt").read_text(encoding="utf-8")
    values = {
        "name": names.component,
        "module": names.module,
        "Class": names.target[0].upper() + names.target[1:],
        "function": _snake(names.target),
    }
    for key, value in values.items():
        text = text.replace("{{" + key + "}}", value)
    return re.split(r"^=== \w+\n", text, flags=re.MULTILINE)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """What the changes name is theirs: name first, then the order of the plain job."""
    return {**({"name": changes["name"]} if "name" in changes else {}), **base, **changes}
