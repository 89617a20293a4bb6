"""Schemas of Keras classes: references, and what `**kwargs` takes."""

from typing import Any

import jsonschema
import keras
import pytest

from tapeworks.components.config_schema import config_of
from tapeworks.components.registry import component, registry
from tapeworks.errors import ComponentError, DuplicateComponent
from tapeworks.spec.references import Kind


def reference(kind: str) -> dict[str, Any]:
    return {"type": "object", "required": ["component"], "x-kind": kind}


class Block(keras.layers.Layer):
    def __init__(
        self,
        inner: keras.layers.Layer,
        others: list[keras.layers.Layer] | None = None,
        by_name: dict[str, keras.losses.Loss] | None = None,
        regularizer: keras.regularizers.Regularizer | None = None,
        rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)


def test_keras_bases_become_references() -> None:
    config = config_of(Block, Kind.LAYER, "block")
    properties: Any = config.schema["properties"]
    assert properties["inner"] == reference("layer")
    assert properties["others"]["anyOf"][0] == {"type": "array", "items": reference("layer")}
    assert properties["by_name"]["anyOf"][0] == {"type": "object", "additionalProperties": reference("loss")}
    assert properties["regularizer"]["anyOf"][0] == reference("regularizer")
    assert properties["rate"]["anyOf"] == [{"type": "number"}, reference("schedule")]
    assert config.kinds == {
        "inner": Kind.LAYER,
        "others": Kind.LAYER,
        "by_name": Kind.LOSS,
        "regularizer": Kind.REGULARIZER,
        "rate": Kind.SCHEDULE,
        "activity_regularizer": Kind.REGULARIZER,
    }
    assert config.declared == {"inner", "others", "by_name", "regularizer", "rate"}


def test_the_schema_holds_references_to_what_they_are() -> None:
    validator = jsonschema.Draft202012Validator(config_of(Block, Kind.LAYER, "block").schema)
    assert validator.is_valid({"inner": {"component": "keras/Dense", "config": {"units": 3}}})
    assert not validator.is_valid({"inner": "keras/Dense"}), "a string inside a config is a literal"
    assert not validator.is_valid({"inner": {"units": 3}})


@pytest.mark.parametrize(
    ("base", "kind", "names"),
    [
        (keras.layers.Layer, Kind.LAYER, {"name", "dtype", "trainable", "activity_regularizer"}),
        (keras.Model, Kind.MODEL, {"name", "dtype", "trainable"}),
        (keras.losses.Loss, Kind.LOSS, {"name", "reduction", "dtype"}),
        (keras.metrics.Metric, Kind.METRIC, {"name", "dtype"}),
        (keras.regularizers.Regularizer, Kind.REGULARIZER, set()),
    ],
)
def test_kwargs_take_what_the_base_takes(base: type, kind: Kind, names: set[str]) -> None:
    def __init__(self: Any, own: int = 1, **kwargs: Any) -> None: ...

    schema = config_of(type("Part", (base,), {"__init__": __init__}), kind, "part").schema
    assert set(schema["properties"]) == {"own", *names}  # type: ignore[arg-type]
    assert schema["additionalProperties"] is False


def test_kwargs_of_a_subclass_of_dense_take_what_dense_takes() -> None:
    class Warm(keras.layers.Dense):
        def __init__(self, units: int, heat: float = 1.0, **kwargs: Any) -> None:
            super().__init__(units, **kwargs)

    config = config_of(Warm, Kind.LAYER, "warm")
    names = set(config.schema["properties"])  # type: ignore[arg-type]
    assert {"units", "heat", "use_bias", "kernel_regularizer", "name", "dtype"} <= names
    assert config.schema["required"] == ["units"]
    assert config.declared == {"units", "heat"}


def test_kwargs_of_a_users_base_keep_their_types() -> None:
    class Base(keras.losses.Loss):
        def __init__(self, margin: float = 1.0, **kwargs: Any) -> None:
            super().__init__(**kwargs)

    class Derived(Base):
        def __init__(self, power: int = 2, **kwargs: Any) -> None:
            super().__init__(**kwargs)

    properties: Any = config_of(Derived, Kind.LOSS, "derived").schema["properties"]
    assert set(properties) == {"power", "margin", "name", "reduction", "dtype"}
    assert properties["margin"] == {"type": "number", "default": 1.0}
    assert properties["reduction"] == {"anyOf": [{"type": "string"}, {"type": "null"}]}, "Keras' default is not stated"


def test_a_model_that_overrides_train_step_is_sent_to_steps() -> None:
    class Own(keras.Model):
        def train_step(self, data: Any) -> Any:
            return {}

    with pytest.raises(ComponentError, match=r"Own overrides train_step.*tapeworks\.TrainingStep"):
        component("trial/Own")(Own)


def test_an_argument_that_no_config_can_hold_stops_the_registration() -> None:
    class Own(keras.layers.Layer):
        def __init__(self, table: keras.Variable) -> None:
            super().__init__()

    with pytest.raises(ComponentError, match=r"trial/Own: the argument 'table' is annotated Variable"):
        component("trial/Own")(Own)
    assert registry.find(Kind.LAYER, "trial/Own") is None


def test_a_loss_and_a_metric_cannot_share_a_name() -> None:
    """Keras' files know an object by its name alone."""
    component("trial/Same")(type("Loss", (keras.losses.Loss,), {"__module__": __name__}))
    with pytest.raises(DuplicateComponent, match=r"names a loss .* and a metric"):
        component("trial/Same")(type("Metric", (keras.metrics.Metric,), {"__module__": __name__}))


def test_keras_knows_a_component_as_package_and_name() -> None:
    registered = keras.saving.get_registered_object
    assert registered("tapeworks>focal") is registry.get(Kind.LOSS, "focal").target
    component("trial/Known")(Block)
    assert registered("trial>Known") is Block
