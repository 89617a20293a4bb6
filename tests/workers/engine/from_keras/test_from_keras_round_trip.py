"""Every public class of Keras, each argument changed: object → reference of a spec → object, and nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import keras
import pytest

from tapeworks.components.loading import load_installed
from tapeworks.errors import ComponentError
from tapeworks.keras.models import _complete
from tapeworks.keras.references import check_rebuilt, left_out, reference
from tapeworks.spec.references import Kind
from tapeworks_workers.components.models.functional import check_config
from tapeworks_workers.engine.factory.factory import build
from tests.support.keras_arguments import Case, cases, changed

load_installed()
SAMPLE = 40
"""One case in so many is in the plain suite."""
REFUSED = {
    "ELU-activity_regularizer",  # Keras cannot serialise it
    "Identity-activity_regularizer",
    "RandomShear-x_factor",  # Keras refuses its own config
    "RandomShear-y_factor",
    "MeanMetricWrapper-None",  # a plain function
    "MeanMetricWrapper-name",
    "MeanMetricWrapper-dtype",
    "IntegerLookup-oov_token",  # of a word: Keras cannot serialise it
}
"""What raises ComponentError, in place of a spec that would be another."""
UNTRIED = {
    ("ActivityRegularization", "activity_regularizer"),
    ("IntegerLookup", "activity_regularizer"),
    ("IntegerLookup", "vocabulary_dtype"),
    ("StringLookup", "activity_regularizer"),
}
"""Arguments in a signature for which Keras takes no other value."""
CASES = list(cases())
CLASSES = list(dict.fromkeys((case.kind, case.cls) for case in CASES))


def comparable(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def same(first: Any, second: Any) -> None:
    config = first.get_config()
    assert comparable(type(second).get_config(second)) == comparable(config)
    assert comparable(left_out(second, config)) == comparable(left_out(first, config))
    assert getattr(second, "dtype", None) == getattr(first, "dtype", None)


def by_reference(made: Any, case: Case) -> None:
    """Through a reference of its own, as `from_keras` writes losses, metrics, optimizers and nested objects."""
    same(made, build(json.loads(json.dumps(reference(made, "the object"), allow_nan=False)), case.kind))


def by_config(made: Any, case: Case) -> None:
    """Through the config of a functional model, as `from_keras` writes layers."""
    document = json.loads(json.dumps(keras.saving.serialize_keras_object(made)))
    _complete(document, made)
    check_rebuilt(document, made.name)
    check_config(document, "config")
    same(made, keras.saving.deserialize_keras_object(document))


def run(chosen: Iterable[Case]) -> set[str]:
    """Arguments of which a value was tried."""
    tried = set()
    for case in chosen:
        try:
            made = case.build()
        except (AttributeError, TypeError, ValueError):  # Keras refuses the value: there is no such object
            continue
        tried.add(str(case.argument))
        for way in (by_reference, by_config) if case.kind is Kind.LAYER else (by_reference,):
            try:
                way(made, case)
            except (ComponentError, NotImplementedError, ValueError) as error:
                assert case.id in REFUSED, f"{case.id} by {way.__name__}: {error}"  # noqa: PT017
            except Exception as error:
                error.add_note(f"{case.id} by {way.__name__}")
                raise
    return tried


@pytest.mark.parametrize("offset", [7, 23])
def test_a_sample_comes_back_as_it_was(offset: int) -> None:
    assert run(CASES[offset::SAMPLE])


@pytest.mark.parametrize("kind", [Kind.LOSS, Kind.REGULARIZER, Kind.CONSTRAINT])
def test_all_small_kinds_come_back_as_they_were(kind: Kind) -> None:
    assert run(case for case in CASES if case.kind is kind)


@pytest.mark.thorough
@pytest.mark.parametrize(("kind", "cls"), CLASSES, ids=[f"{kind}-{cls.__name__}" for kind, cls in CLASSES])
def test_every_argument_comes_back_as_it_was(kind: Kind, cls: type) -> None:
    if cls is keras.optimizers.LossScaleOptimizer:
        return  # the job's own work: see test_from_keras.py
    tried = run(case for case in CASES if (case.kind, case.cls) == (kind, cls))
    untried = {argument for argument in changed(kind, cls) if argument not in tried}
    assert {(cls.__name__, argument) for argument in untried} <= UNTRIED
