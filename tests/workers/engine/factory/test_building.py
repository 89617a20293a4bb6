"""From references to objects: what is built, and where a failure points."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks.components.registry import component
from tapeworks.errors import FailureCode, JobFailure
from tapeworks.schemas.jobs import ComponentEntry
from tapeworks.spec.references import Kind, ReferenceFields
from tapeworks_workers.engine.factory.factory import build
from tapeworks_workers.engine.factory.keras_classes import keras_entries


def ref(name: str, **config: Any) -> dict[str, Any]:
    return {"component": name, "config": config}


# ── Keras' own ───────────────────────────────────────────────────────────────────────────────────


def test_keras_classes_by_name_with_nested_references() -> None:
    dense = build(
        ref("keras/Dense", units=3, activation="relu", kernel_regularizer=ref("keras/L1L2", l1=0.1, l2=0.2)),
        Kind.LAYER,
    )
    assert (dense.units, float(dense.kernel_regularizer.l2)) == (3, pytest.approx(0.2))
    wrapped = build(ref("keras/Bidirectional", layer=ref("keras/LSTM", units=2)), Kind.LAYER)
    assert wrapped.forward_layer.units == 2
    stacked = build(ref("keras/RNN", cell=ref("keras/GRUCell", units=2)), Kind.LAYER)
    assert stacked.cell.units == 2
    optimizer = build(
        ref("keras/SGD", learning_rate=ref("keras/CosineDecay", initial_learning_rate=0.5, decay_steps=10)),
        Kind.OPTIMIZER,
    )
    assert isinstance(optimizer._learning_rate, keras.optimizers.schedules.CosineDecay)
    normal = build(ref("keras/SpectralNormalization", layer=ref("keras/Dense", units=2)), Kind.LAYER)
    assert normal.layer.units == 2


def test_the_place_says_which_of_two_kinds_a_name_means() -> None:
    assert isinstance(build("keras/Hinge", Kind.LOSS), keras.losses.Loss)
    assert isinstance(build("keras/Hinge", Kind.METRIC), keras.metrics.Metric)


def test_a_reference_may_come_as_the_specs_own_model() -> None:
    built = build(ReferenceFields(component="keras/Dropout", config={"rate": 0.5}), Kind.LAYER)
    assert built.rate == 0.5


def test_nested_references_are_built_depth_first_in_document_order() -> None:
    order: list[str] = []

    @component("trial/Named", kind=None)
    class Named(keras.layers.Layer):
        def __init__(self, label: str, inner: list[keras.layers.Layer] | None = None) -> None:
            super().__init__()
            order.append(label)

    inner = [ref("trial/Named", label="a", inner=[ref("trial/Named", label="b")]), ref("trial/Named", label="c")]
    build(ref("trial/Named", label="d", inner=inner), Kind.LAYER)
    assert order == ["b", "a", "c", "d"]


@pytest.mark.parametrize(
    ("reference", "kind", "message"),
    [
        ("keras/Lambda", Kind.LAYER, "/at: keras/Lambda is not accepted: it carries code"),
        ("keras/TFSMLayer", Kind.LAYER, "is not accepted"),
        ("keras/Dens", Kind.LAYER, "no public layer class 'Dens'; did you mean keras/Dense"),
        ("keras/Layer", Kind.LAYER, "no public layer class 'Layer'"),
        ("keras/Dense", Kind.LOSS, "no public loss class 'Dense'"),
        ("keras/Model", Kind.MODEL, "Keras has no public model classes"),
        ("keras/deserialize", Kind.LAYER, "no public layer class 'deserialize'"),
        (ref("keras/Dense", unit=3), Kind.LAYER, "/at/config/unit: keras/Dense has no argument 'unit'; it takes"),
        (ref("keras/Dense"), Kind.LAYER, "/at/config: keras/Dense needs the argument 'units'"),
        (ref("keras/StringLookup", vocabulary="/etc/passwd"), Kind.LAYER, "/at/config/vocabulary: Keras would read"),
        (ref("keras/IntegerLookup", vocabulary="v.txt"), Kind.LAYER, "Keras would read 'vocabulary' as a file"),
        (ref("keras/TextVectorization", vocabulary="v"), Kind.LAYER, "Keras would read 'vocabulary' as a file"),
        (
            ref("keras/Dense", units=3, kernel_initializer={"class_name": "Zeros", "config": {}}),
            Kind.LAYER,
            "/at/config/kernel_initializer: Keras' serialised form is not accepted here",
        ),
        (
            ref("keras/Bidirectional", layer=ref("keras/LSTM", units=2, dtype={"a": [{"module": "os"}]})),
            Kind.LAYER,
            "/at/config/layer/.*serialised form",
        ),
        (ref("keras/Dense", units=3, kernel_regularizer=ref("keras/Zeros")), Kind.LAYER, "no public regularizer class"),
        ("focl", Kind.LOSS, "no loss is named 'focl'; did you mean 'focal'"),
        ({"component": "focal", "version": "7"}, Kind.LOSS, "has loss 'focal' in version '1', not '7'"),
        (ref("focal", gamma="high"), Kind.LOSS, "/at/config/gamma: Input should be a valid number"),
        (ref("focal", gama=2.0), Kind.LOSS, "/at/config/gama: focal has no argument 'gama'; it takes alpha, dtype"),
        (ref("mlp", hidden=[4]), Kind.MODEL, "/at/config/outputs: the argument 'outputs' is missing"),
        (ref("mlp", hidden=[4, "x"], outputs=1), Kind.MODEL, "/at/config/hidden/1"),
        (ref("mlp", hidden=[], outputs=1, kernel_regularizer="l2"), Kind.MODEL, "expected a regularizer"),
        (
            ref("gated_residual", units=3, dtype="float32", activity_regularizer=ref("keras/L9")),
            Kind.LAYER,
            "/at/config/activity_regularizer: Keras has no public regularizer class 'L9'",
        ),
    ],
)
def test_what_cannot_be_built_is_told_with_its_place(reference: Any, kind: Kind, message: str) -> None:
    with pytest.raises(JobFailure, match=message) as refused:
        build(reference, kind, pointer="/at")
    assert refused.value.code is FailureCode.INVALID_SPEC
    assert refused.value.location is not None
    assert refused.value.location.component is not None


def test_an_error_of_keras_names_the_component() -> None:
    with pytest.raises(JobFailure, match=r"/at: keras/Dense could not be built: ValueError: .*units") as refused:
        build(ref("keras/Dense", units=-3), Kind.LAYER, pointer="/at")
    assert refused.value.code is FailureCode.COMPONENT_ERROR


def test_a_component_that_is_named_like_one_of_keras_own_words_is_told_the_form() -> None:
    with pytest.raises(JobFailure, match="Could not interpret constraint identifier: unit_ball") as refused:
        build(ref("keras/Dense", units=3, kernel_constraint="unit_ball"), Kind.LAYER, pointer="/at")
    assert '{"component": NAME}' in refused.value.hint


def test_an_error_of_a_component_points_at_its_line() -> None:
    @component("trial/Broken")
    class Broken(keras.layers.Layer):
        def __init__(self) -> None:
            raise KeyError("size")

    with pytest.raises(JobFailure, match="trial/Broken could not be built: KeyError: 'size'") as refused:
        build("trial/Broken", Kind.LAYER)
    location = refused.value.location
    assert location is not None
    assert (location.file, location.component) == (__file__, "trial/Broken")
    line = Broken.__init__.__wrapped__.__code__.co_firstlineno + 1
    assert location.line == line


def test_keras_serialised_form_does_not_slip_in_by_kwargs() -> None:
    @component("trial/Warm")
    class Warm(keras.layers.Dense):
        def __init__(self, units: int, **kwargs: Any) -> None:
            super().__init__(units, **kwargs)

    serialised = {"class_name": "Zeros", "module": "keras.initializers", "config": {}}
    with pytest.raises(JobFailure, match="serialised form is not accepted"):
        build(ref("trial/Warm", units=3, kernel_initializer=serialised), Kind.LAYER)
    built = build(ref("trial/Warm", units=3, kernel_initializer=ref("keras/Zeros")), Kind.LAYER)
    assert isinstance(built.kernel_initializer, keras.initializers.Zeros)


def test_a_reference_in_an_untyped_argument_is_found_by_its_name() -> None:
    @component("trial/Holds")
    class Holds:
        def __init__(self, thing=None) -> None:  # type: ignore[no-untyped-def]
            self.thing = thing

    assert isinstance(
        build(ref("trial/Holds", thing=[ref("keras/L2")]), Kind.TRANSFORM).thing[0], keras.regularizers.L2
    )
    with pytest.raises(JobFailure, match="'keras/Hinge' is loss and metric, and the argument 'thing' does not say"):
        build(ref("trial/Holds", thing=ref("keras/Hinge")), Kind.TRANSFORM)
    with pytest.raises(JobFailure, match="no component named 'nothing'"):
        build(ref("trial/Holds", thing=ref("nothing")), Kind.TRANSFORM)


# ── functions ────────────────────────────────────────────────────────────────────────────────────


def test_functions_become_losses_and_metrics_as_keras_makes_them() -> None:
    @component("trial/pinball", kind="loss")
    def pinball(y_true: Any, y_pred: Any, quantile: float = 0.5) -> Any:
        error = tf.cast(y_true, y_pred.dtype) - y_pred
        return tf.reduce_mean(tf.maximum(quantile * error, (quantile - 1) * error), axis=-1)

    @component("trial/bias", kind="metric")
    def bias(y_true: Any, y_pred: Any) -> Any:
        return tf.reduce_mean(tf.cast(y_true, y_pred.dtype) - y_pred, axis=-1)

    loss = build(ref("trial/pinball", quantile=0.9), Kind.LOSS)
    y, outputs = np.array([[1.0], [2.0]], "float32"), np.array([[0.0], [4.0]], "float32")
    assert float(loss(y, outputs)) == pytest.approx((0.9 + 0.2) / 2)
    back = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert float(back(y, outputs)) == float(loss(y, outputs))
    metric = build("trial/bias", Kind.METRIC)
    metric.update_state(y, outputs)
    assert (float(metric.result()), metric.name) == (-0.5, "bias")


def test_transform_functions_have_their_config_bound() -> None:
    @component("trial/shift")
    def shift(x: Any, *, by: float) -> Any:
        """Add."""
        return x + by

    bound = build(ref("trial/shift", by=2.0), Kind.TRANSFORM)
    assert bound(1.0) == 3.0
    assert bound.__doc__ == "Add."
    with pytest.raises(JobFailure, match="the argument 'by' is missing"):
        build("trial/shift", Kind.TRANSFORM)


# ── the catalogue's entries ──────────────────────────────────────────────────────────────────────


def test_keras_entries_name_arguments_and_nothing_else() -> None:
    entries = {(one.kind, one.name): one for one in keras_entries()}
    dense = entries[Kind.LAYER, "keras/Dense"]
    assert isinstance(dense, ComponentEntry)
    assert dense.config_schema["required"] == ["units"]
    assert dense.config_schema["additionalProperties"] is False
    properties: Any = dense.config_schema["properties"]
    assert {"units", "kernel_regularizer", "name", "dtype", "trainable"} <= set(properties)
    assert set(map(str, properties.values())) == {"{}"}
    assert dense.doc.startswith("Just your regular densely-connected NN layer")
    assert "\n" not in dense.doc
    assert {one.digest for one in entries.values()} == {dense.digest}
    for kind, name in [
        (Kind.LOSS, "Huber"), (Kind.METRIC, "AUC"), (Kind.OPTIMIZER, "AdamW"), (Kind.SCHEDULE, "CosineDecay"),
        (Kind.REGULARIZER, "L2"), (Kind.INITIALIZER, "HeNormal"), (Kind.CONSTRAINT, "MaxNorm"),
    ]:  # fmt: skip
        assert (kind, f"keras/{name}") in entries
    names = {name for _, name in entries}
    assert not names & {"keras/Lambda", "keras/TFSMLayer", "keras/JaxLayer", "keras/Layer", "keras/Loss"}


def test_every_entry_with_no_required_argument_can_be_built() -> None:
    """Kinds whose classes need no data: losses, metrics, optimizers, regularizers, initializers, constraints."""
    plain = {Kind.LOSS, Kind.METRIC, Kind.OPTIMIZER, Kind.REGULARIZER, Kind.INITIALIZER, Kind.CONSTRAINT}
    for entry in keras_entries():
        if entry.kind in plain and "required" not in entry.config_schema:
            build(entry.name, entry.kind)


@pytest.mark.parametrize(
    ("reference", "kind", "attribute"),
    [
        (ref("keras/Huber", delta=0.5), Kind.LOSS, lambda made: made._fn_kwargs["delta"]),
        (ref("keras/CosineSimilarity", axis=1), Kind.LOSS, lambda made: made._fn_kwargs["axis"]),
        (ref("keras/CategoryEncoding", num_tokens=3, sparse=True), Kind.LAYER, lambda made: made.sparse),
    ],
)
def test_what_keras_leaves_out_of_a_config_comes_back(reference: Any, kind: Kind, attribute: Any) -> None:
    made = build(reference, kind)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(made))
    assert attribute(again) == attribute(made)
