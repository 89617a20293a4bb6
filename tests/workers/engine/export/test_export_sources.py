"""Which component sources go into a bundle, and how they lie there."""

import textwrap
from pathlib import Path

import keras
import pytest

from tapeworks.components.loading import load_components
from tapeworks.components.registry import Component, registry
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.export.component_sources import copy_sources, used_components

PACKAGE = {
    "acme_pack/__init__.py": "from acme_pack.layers.twice import Twice\n",
    "acme_pack/layers/__init__.py": "",
    "acme_pack/layers/twice.py": """
        import keras
        from tapeworks import component
        from ..numbers import TWO


        @component("acme_pack/Twice")
        class Twice(keras.layers.Layer):
            def call(self, x):
                return TWO * x
        """,
    "acme_pack/numbers.py": "from acme_beside import TWO\n",
    "acme_pack/LICENSE": "Anybody may.\n",
    "acme_pack/notes.txt": "Not Python.\n",
    "acme_beside/__init__.py": "from acme_beside.values import TWO\n",
    "acme_beside/values.py": "TWO = 2\n",
    "acme_unrelated.py": "raise RuntimeError('nobody imports this')\n",
    "LICENSE.txt": "Of the folder.\n",
}


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Component:
    """A component in a package that uses a package beside it."""
    folder = tmp_path_factory.mktemp("packages")
    for name, text in PACKAGE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text).lstrip())
    (component,) = load_components([folder / "acme_pack"])
    return component


def test_a_package_goes_whole_with_what_it_imports_from_beside_it(twice: Component, tmp_path: Path) -> None:
    (entry,) = copy_sources([twice], tmp_path / "components")
    copied = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()}
    assert copied == {
        "components/component_serialization.py",
        "components/component_precision.py",
        "components/component_builds.py",
        "components/acme_pack/__init__.py",
        "components/acme_pack/LICENSE",
        "components/acme_pack/layers/__init__.py",
        "components/acme_pack/layers/twice.py",
        "components/acme_pack/numbers.py",
        "components/acme_beside/__init__.py",
        "components/acme_beside/values.py",
        "components/licenses/acme_pack/LICENSE.txt",
        "components/licenses/tapeworks/LICENSE",
    }
    assert entry["bundled_module"] == entry["module"] == "acme_pack.layers.twice"
    assert entry["file"] == "components/acme_pack/layers/twice.py"
    assert entry["needed_by"] == "models"


def test_a_built_in_file_goes_alone(acme: Path, tmp_path: Path) -> None:
    (entry,) = copy_sources([registry.get(Kind.LOSS, "focal")], tmp_path / "components")
    assert entry["file"] == "components/builtin_components/losses/focal.py"
    assert entry["bundled_module"] == "builtin_components.losses.focal"
    copied = [path.name for path in (tmp_path / "components" / "builtin_components").rglob("*.py")]
    assert copied == ["focal.py"]


def test_components_are_found_in_the_spec_and_in_the_models(acme: Path, twice: Component) -> None:
    spec = {"loss": {"component": "focal", "config": {"nested": [{"component": "orthogonal", "config": {}}]}}}
    layer = keras.saving.serialize_keras_object(twice.target())
    names = [component.name for component in used_components(spec, [{"layers": [layer]}])]
    assert names == ["acme_pack/Twice", "focal", "orthogonal"]
