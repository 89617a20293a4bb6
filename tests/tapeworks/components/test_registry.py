"""Registration and loading, without TensorFlow."""

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tapeworks import Callback, Evaluator, GradientTransform, Source, TrainingStep
from tapeworks.components.loading import load_components
from tapeworks.components.registry import Registry, component, kind_of, registry
from tapeworks.errors import ComponentError, DuplicateComponent
from tapeworks.spec.references import Kind


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """Components, refused modules and the module path are those of before."""
    components, refused, path = dict(registry._components), list(registry.refused), list(sys.path)
    yield
    registry._components = components
    registry.refused = refused
    sys.path[:] = path


@pytest.fixture
def module(tmp_path: Path) -> Iterator[Callable[[str, str], Path]]:
    """Write a module or one of a package; forget it afterwards."""
    before = set(sys.modules)

    def write(name: str, source: str) -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(source))
        return file

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


STEP = """
    from tapeworks import TrainingStep, component

    @component("house/Step")
    class Step(TrainingStep):
        {body}
"""


# ── kinds and names ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("base", "kind"),
    [
        (TrainingStep, Kind.STEP),
        (Source, Kind.SOURCE),
        (GradientTransform, Kind.GRADIENT_TRANSFORM),
        (Evaluator, Kind.EVALUATOR),
        (Callback, Kind.CALLBACK),
        (object, Kind.TRANSFORM),
    ],
)
def test_the_base_says_the_kind(base: type, kind: Kind) -> None:
    assert kind_of(type("Part", (base,), {}), "part") is kind


def test_functions_are_transforms_unless_a_kind_is_given() -> None:
    def function(x: Any) -> Any:
        return x

    assert kind_of(function, "part") is Kind.TRANSFORM
    assert kind_of(function, "part", Kind.DATASET_FUNCTION) is Kind.DATASET_FUNCTION
    assert kind_of(function, "part", Kind.MODEL) is Kind.MODEL


def test_a_kind_that_does_not_fit_is_refused_with_the_base_to_take() -> None:
    with pytest.raises(ComponentError, match=r"a function cannot be a step: subclass tapeworks\.TrainingStep"):
        kind_of(lambda x: x, "part", Kind.STEP)
    with pytest.raises(ComponentError, match=r"a loss needs its base: subclass keras\.losses\.Loss"):
        kind_of(type("Part", (), {}), "part", Kind.LOSS)
    with pytest.raises(ComponentError, match=r"Part is a source by its base, not a step"):
        kind_of(type("Part", (Source,), {}), "part", Kind.STEP)
    with pytest.raises(ComponentError, match="takes a class or a function, not int"):
        component("part")(3)  # type: ignore[type-var]


@pytest.mark.parametrize("name", ["keras/Dense", "a b", "", "a/b/c", "1x", "../x"])
def test_a_name_that_no_spec_can_say_is_refused(name: str) -> None:
    with pytest.raises(ComponentError, match="cannot name a component"):
        component(name)(type("Part", (), {}))


def test_an_unknown_name_is_told_with_close_ones(module: Callable[[str, str], Path]) -> None:
    load_components([module("house_close.py", STEP.format(body="pass"))])
    with pytest.raises(ComponentError, match=r"no step is named 'house/Stepp'; did you mean 'house/Step'"):
        registry.get(Kind.STEP, "house/Stepp")
    assert registry.find(Kind.SOURCE, "house/Step") is None


# ── duplicates ───────────────────────────────────────────────────────────────────────────────────


def test_other_code_under_a_taken_name_raises(module: Callable[[str, str], Path]) -> None:
    load_components([module("house_one.py", STEP.format(body="pass"))])
    with pytest.raises(DuplicateComponent, match=r"already registered by house_one\.Step"):
        load_components([module("house_two.py", STEP.format(body="models = ('other',)"))])
    assert registry.get(Kind.STEP, "house/Step").module == "house_one"


def test_another_version_of_a_name_needs_another_process(module: Callable[[str, str], Path]) -> None:
    load_components([module("house_one.py", STEP.format(body="pass"))])
    second = STEP.replace('"house/Step"', '"house/Step", version="2"')
    with pytest.raises(DuplicateComponent, match="one version of a name"):
        load_components([module("house_two.py", second.format(body="pass"))])


def test_the_same_file_again_is_fine(module: Callable[[str, str], Path]) -> None:
    file = module("house_one.py", STEP.format(body="pass"))
    (first,) = load_components([file])
    del sys.modules["house_one"]
    (second,) = load_components([file])
    assert first.digest == second.digest
    assert registry.get(Kind.STEP, "house/Step").target is second.target is not first.target


def test_one_name_may_be_of_two_kinds(module: Callable[[str, str], Path]) -> None:
    source = """
        from tapeworks import Callback, Evaluator, component

        @component("house/Both")
        class One(Callback):
            pass

        @component("house/Both")
        class Two(Evaluator):
            pass
    """
    assert {one.kind for one in load_components([module("house_both.py", source)])} == {Kind.CALLBACK, Kind.EVALUATOR}


# ── loading ──────────────────────────────────────────────────────────────────────────────────────


def test_a_package_is_loaded_with_its_submodules(module: Callable[[str, str], Path]) -> None:
    package = module("house_package/__init__.py", '"""Parts."""\n').parent
    module("house_package/inner/__init__.py", "")
    module("house_package/inner/steps.py", STEP.format(body="pass"))
    (loaded,) = load_components([package])
    assert loaded.module == "house_package.inner.steps"
    assert loaded.file == package / "inner" / "steps.py"


def test_a_plain_folder_is_loaded_module_by_module(module: Callable[[str, str], Path]) -> None:
    module("house_constants.py", "SIZE = 3\n")
    file = module(
        "house_steps.py", "from house_constants import SIZE\n" + textwrap.dedent(STEP).format(body="n = SIZE")
    )
    (loaded,) = load_components([file.parent])
    assert loaded.target.n == 3
    assert str(file.parent) == sys.path[-1], "at the end, so that it hides nothing"


def test_a_module_that_fails_leaves_nothing_behind(module: Callable[[str, str], Path]) -> None:
    file = module("house_broken.py", textwrap.dedent(STEP).format(body="pass") + "\nraise KeyError('half-way')\n")
    with pytest.raises(ComponentError, match=r"house_broken cannot be imported: KeyError: 'half-way'"):
        load_components([file])
    assert registry.find(Kind.STEP, "house/Step") is None


def test_loading_can_go_on_after_a_module_that_fails(module: Callable[[str, str], Path]) -> None:
    module("house_a.py", "def broken(:\n")
    folder = module("house_b.py", STEP.format(body="pass")).parent
    assert [one.name for one in load_components([folder], keep_going=True)] == ["house/Step"]
    (refused,) = registry.refused
    assert refused.name == "house_a"
    assert "SyntaxError" in refused.reason


def test_a_file_named_like_an_imported_module_is_told_to_be_renamed(module: Callable[[str, str], Path]) -> None:
    with pytest.raises(ComponentError, match=r"the module name 'json' is used by .*: rename the file"):
        load_components([module("json.py", STEP.format(body="pass"))])


@pytest.mark.parametrize(("name", "message"), [("nothing", "does not exist"), ("text.txt", "not a Python file")])
def test_a_path_without_components_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "text.txt").write_text("hello")
    with pytest.raises(ComponentError, match=message):
        load_components([tmp_path / name])


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ComponentError, match="holds no Python module"):
        load_components([tmp_path])


# ── what the catalogue is told ───────────────────────────────────────────────────────────────────


def test_a_step_tells_its_roles(module: Callable[[str, str], Path]) -> None:
    body = """models = ("generator", "critic")
        optimizers = {"g": ("generator",), "c": ("critic",)}
        losses = ("g", "extra")
        optional_losses = ("extra",)

        def validation_step(self, batch, run):
            return {}
    """
    (loaded,) = load_components([module("house_roles.py", STEP.format(body=body.replace("{", "{").strip()))])
    assert loaded.entry().roles == {
        "models": ["generator", "critic"],
        "optimizers": {"g": ["generator"], "c": ["critic"]},
        "losses": ["g", "extra"],
        "optional_losses": ["extra"],
        "frozen": [],
        "validation_step": True,
    }


def test_roles_that_init_decides_are_not_told(module: Callable[[str, str], Path]) -> None:
    body = "def __init__(self, count: int):\n            self.models = [f'm{i}' for i in range(count)]"
    (loaded,) = load_components([module("house_roles.py", STEP.format(body=body))])
    assert loaded.entry().roles is None


def test_an_entry_has_schema_doc_digest_and_batched(module: Callable[[str, str], Path]) -> None:
    source = '''
        from tapeworks import Source, component

        @component("house/Numbers", version="3")
        class Numbers(Source):
            """Counts.

            To n.
            """
            batched = True

            def __init__(self, n: int = 3):
                self.n = n
    '''
    (loaded,) = load_components([module("house_numbers.py", source)])
    entry = loaded.entry(["careful"])
    assert (entry.kind, entry.name, entry.version) == (Kind.SOURCE, "house/Numbers", "3")
    assert (entry.batched, entry.roles, entry.warnings) == (True, None, ["careful"])
    assert entry.doc == "Counts.\n\nTo n."
    assert len(entry.digest) == 64
    assert entry.config_schema == {
        "type": "object",
        "properties": {"n": {"type": "integer", "default": 3}},
        "additionalProperties": False,
    }


def test_a_registry_can_be_walked_while_it_grows() -> None:
    assert (len(Registry()), list(Registry())) == (0, [])


def test_importing_the_registry_imports_neither_tensorflow_nor_numpy() -> None:
    program = (
        "import sys, tapeworks.components as c\n"
        "from tapeworks import Source, component\n"
        "assert not {'tensorflow', 'keras', 'numpy'} & set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_another_version_of_a_component_has_the_config_of_its_author() -> None:
    @component("acme/Versioned", kind="transform")
    class Versioned:
        def __init__(self, scale: float = 1.0) -> None:
            self.scale = scale

        def __call__(self, x: float) -> float:
            return x * self.scale

    entry = registry.get(Kind.TRANSFORM, "acme/Versioned")
    Versioned.__init__ = lambda self, *args, **kwargs: None  # type: ignore[method-assign]  # as registering with Keras does
    named = entry.as_version("2.0", package="pkg_1")
    assert (named.version, named.package, named.config_schema) == ("2.0", "pkg_1", entry.config_schema)
