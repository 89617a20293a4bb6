"""JSON Schema and checked arguments from a typed `__init__`, without Keras."""

from enum import Enum
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest
from pydantic import ValidationError

from tapeworks import EarlierJob, Files, Source
from tapeworks.components.config_schema import config_of
from tapeworks.errors import ComponentError
from tapeworks.spec.references import Kind


class Color(Enum):
    RED = "red"


class Typed:
    def __init__(
        self,
        size: int,
        rate: float = 0.5,
        mode: Literal["a", "b"] = "a",
        shape: tuple[int, int] = (1, 2),
        weights: dict[str, float] | None = None,
        names: list[str] | str = "all",
        color: Color = Color.RED,
        copy: bool = False,
        _hidden: int = 0,
        anything=None,  # type: ignore[no-untyped-def]
    ) -> None: ...


def test_the_schema_says_what_json_may_come() -> None:
    schema = config_of(Typed, Kind.TRANSFORM, "typed").schema
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid({"size": 3, "shape": [2, 3], "weights": {"a": 1}, "names": ["x"], "copy": True})
    assert validator.is_valid({"size": 3, "anything": {"deep": [1, None]}, "mode": "b", "color": "red"})
    for wrong in (
        {},
        {"size": "3"},
        {"size": 3, "rate": "high"},
        {"size": 3, "mode": "c"},
        {"size": 3, "shape": [1]},
        {"size": 3, "sizes": 3},
    ):
        assert not validator.is_valid(wrong), wrong


def test_arguments_are_converted_and_only_those_given() -> None:
    config = config_of(Typed, Kind.TRANSFORM, "typed")
    assert config.arguments({"size": 3, "shape": [2, 3], "color": "red", "rate": 1, "_hidden": 4}) == {
        "size": 3,
        "shape": (2, 3),
        "color": Color.RED,
        "rate": 1.0,
        "_hidden": 4,
    }


def test_a_whole_number_may_be_written_with_a_fraction() -> None:
    """JSON Schema takes 3.0 for an integer, so what the service let pass must be built."""
    config = config_of(Typed, Kind.TRANSFORM, "typed")
    given = config.arguments({"size": 3.0, "shape": [1, 2.0], "rate": 1.0})
    assert given == {"size": 3, "shape": (1, 2), "rate": 1.0}
    assert [type(given["size"]), type(given["rate"])] == [int, float]


@pytest.mark.parametrize(
    ("config", "place"),
    [
        ({"size": True}, ("size",)),
        ({"size": 1.5}, ("size",)),
        ({"size": 3, "weights": {"a": "b"}}, ("weights", "a")),
        ({"size": 3, "other": 1}, ("other",)),
    ],
)
def test_what_does_not_fit_is_refused_at_its_place(config: dict[str, Any], place: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError) as refused:
        config_of(Typed, Kind.TRANSFORM, "typed").arguments(config)
    assert refused.value.errors()[0]["loc"] == place


def test_a_default_that_is_no_json_is_left_out_of_the_schema() -> None:
    class Odd:
        def __init__(self, where: str | None = None, what=Path("x")) -> None: ...  # type: ignore[no-untyped-def]

    schema = config_of(Odd, Kind.TRANSFORM, "odd").schema
    assert schema["properties"]["what"] == {}  # type: ignore[index,call-overload]
    assert "required" not in schema


def test_files_are_known_by_their_annotation() -> None:
    class Read(Source):
        def __init__(self, files: Files, more: Files | None = None, name: str = "") -> None: ...

    config = config_of(Read, Kind.SOURCE, "read")
    assert config.files == {"files", "more"}
    validator = jsonschema.Draft202012Validator(config.schema)
    assert validator.is_valid({"files": "*.npz"})
    assert validator.is_valid({"files": ["a.npz", "b.npz"]})
    assert not validator.is_valid({"files": 3})


def test_of_a_transform_function_the_keyword_only_arguments_are_config() -> None:
    def function(x: Any, y: Any, *, factor: float, seed: Any = None) -> Any: ...

    assert list(config_of(function, Kind.TRANSFORM, "f").schema["properties"]) == ["factor"]  # type: ignore[arg-type]


def test_of_a_loss_function_all_but_the_first_two_and_what_every_loss_takes() -> None:
    def function(y_true: Any, y_pred: Any, delta: float = 1.0) -> Any: ...

    taken = config_of(function, Kind.LOSS, "f").schema["properties"]
    assert list(taken) == ["delta", "name", "reduction", "dtype"], "and what Keras' wrapper takes"  # type: ignore[arg-type]


def test_untypable_annotations_are_told_with_what_to_write() -> None:
    class Wrong:
        def __init__(self, table: memoryview) -> None: ...

    with pytest.raises(ComponentError, match=r"'table' is annotated memoryview.*Write str, bool, int"):
        config_of(Wrong, Kind.TRANSFORM, "wrong")


def test_arguments_without_names_are_refused() -> None:
    class Many:
        def __init__(self, *sizes: int) -> None: ...

    class First:
        def __init__(self, size: int, /) -> None: ...

    for wrong in (Many, First):
        with pytest.raises(ComponentError, match="cannot be named in a config"):
            config_of(wrong, Kind.TRANSFORM, "wrong")


def test_annotations_under_type_checking_are_told() -> None:
    namespace: dict[str, Any] = {}
    exec("class Late:\n    def __init__(self, x: 'Missing') -> None: ...", namespace)  # noqa: S102
    with pytest.raises(ComponentError, match=r"cannot be resolved.*not under TYPE_CHECKING"):
        config_of(namespace["Late"], Kind.TRANSFORM, "late")


def test_a_plain_class_without_init_takes_nothing() -> None:
    config = config_of(type("Empty", (), {}), Kind.TRANSFORM, "empty")
    assert config.schema == {"type": "object", "properties": {}, "additionalProperties": False}
    assert config.arguments({}) == {}


def test_an_argument_that_python_cannot_name_ends_in_an_underscore() -> None:
    def model(from_: EarlierJob, until: str | None = None) -> None: ...

    config = config_of(model, Kind.MODEL, "acme/model")
    assert config.schema["required"] == ["from"]
    assert config.arguments({"from": "job_1"}) == {"from_": "job_1"}
    assert config.earlier == {"from_"}
