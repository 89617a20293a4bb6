"""What the `example` of a component may look like, and the sentence for what it may not."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks.components.examples import Form, Value, read_example
from tapeworks.errors import ComponentError

F = "float32"
TAKEN: list[tuple[Any, Any]] = [
    ((None, 8), Form((None, 8), F)),
    ([None, 8], Form((None, 8), F)),
    ((4,), Form((4,), F)),
    ((), Form((), F)),
    (tf.TensorShape([None, 8]), Form((None, 8), F)),
    (((None,), "int64"), Form((None,), "int64")),
    (((None,), np.int32), Form((None,), "int32")),
    ({"shape": (None, 3), "dtype": "int32"}, Form((None, 3), "int32")),
    ({"shape": (None, 3), "dtype": tf.int32}, Form((None, 3), "int32")),
    (keras.Input((3,)), Form((None, 3), F)),
    (keras.KerasTensor((None, 3), "int64"), Form((None, 3), "int64")),
    (keras.Input((3,), sparse=True), Form((None, 3), F, sparse=True)),
    (keras.InputSpec(shape=(None, 3)), Form((None, 3), F)),
    (keras.InputSpec(ndim=2, dtype="int32"), Form((None, None), "int32")),
    (tf.TensorSpec([None, 2], tf.int64), tf.TensorSpec([None, 2], tf.int64)),
    (tf.RaggedTensorSpec([None, None], tf.int64), tf.RaggedTensorSpec([None, None], tf.int64)),
    ({"a": (None, 3), "b": {"c": (None,)}}, {"a": Form((None, 3), F), "b": {"c": Form((None,), F)}}),
    ([(None, 3), (None, 2)], [Form((None, 3), F), Form((None, 2), F)]),
    (((None, 3), tf.TensorSpec([], tf.string)), (Form((None, 3), F), tf.TensorSpec([], tf.string))),
    ("text", Value("text")),
    (("12.5", 3), (Value("12.5"), Value(3))),
    ([[0.5, 1.0], [2.0, 3.0]], Value([[0.5, 1.0], [2.0, 3.0]])),
    (["cat", "dog"], Value(["cat", "dog"])),
    ([True, False], Value([True, False])),
]  # fmt: skip


@pytest.mark.parametrize(("given", "read"), TAKEN, ids=lambda value: str(value)[:40])
def test_shapes_specs_values_and_nests_of_them_are_taken(given: Any, read: Any) -> None:
    assert read_example({"inputs": given}, "acme/One") == {"inputs": read}


def test_arrays_and_tensors_are_values() -> None:
    array, tensor = np.ones((2, 3)), tf.constant([1, 2])
    found = read_example({"y_true": array, "y_pred": tensor, "config": {"a": 1}}, "acme/One")
    assert found is not None
    assert found["y_true"].value is array
    assert found["y_pred"].value is tensor
    assert found["config"] == {"a": 1}


def test_a_dtype_beside_the_shapes_is_theirs() -> None:
    assert read_example({"inputs": (None, 8), "dtype": "int32"}, "a/B") == {"inputs": Form((None, 8), "int32")}
    by_key = read_example({"inputs": {"a": (None,), "b": (None,)}, "dtype": {"a": "string"}}, "a/B")
    assert by_key == {"inputs": {"a": Form((None,), "string"), "b": Form((None,), F)}}
    by_part = read_example({"y_true": (None,), "y_pred": (None, 3), "dtype": {"y_true": "int64"}}, "a/B")
    assert by_part == {"y_true": Form((None,), "int64"), "y_pred": Form((None, 3), F)}


@pytest.mark.parametrize(
    ("example", "told"),
    [
        ((None, 8), "acme/One: example is (None, 8) (tuple), not a dict: write example={'inputs': …}"),
        ({"input": (None, 8)}, "acme/One: example has the key 'input'; it takes 'config', 'inputs'"),
        ({"inputs": None}, "acme/One: example['inputs'] is None (NoneType); it must be a shape such as (None, 8)"),
        ({"inputs": {"a": object}}, "example['inputs']['a'] is <class 'object'> (type); it must be a shape"),
        ({"inputs": {}}, "example['inputs'] is {} (dict)"),
        ({"inputs": (-1, 8)}, "example['inputs'] is (-1, 8) (tuple), which is not a shape"),
        ({"y_true": [0, 1, 2]}, "Write np.array(…) for values"),
        ({"inputs": (None, 8), "dtype": "float"}, "the dtype of example['inputs'] is 'float' (str); expected one of"),
        ({"inputs": tf.TensorShape(None)}, "example['inputs'] has no known rank"),
        ({"config": [1]}, "example['config'] is [1] (list), not a dict of arguments"),
    ],
)  # fmt: skip
def test_anything_else_is_one_sentence(example: Any, told: str) -> None:
    with pytest.raises(ComponentError) as raised:
        read_example(example, "acme/One")
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)
