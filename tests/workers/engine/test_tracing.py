"""User code under tracing is converted as tf.function converts it."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tapeworks_workers.engine.tracing import call_user_code


def collects(x: Any) -> Any:
    out = []
    for index in range(3):
        out.append(x * index)
        out.append(tf.constant(index))
    return out[-2] + tf.cast(out[-1], x.dtype)


def branches(x: Any) -> Any:
    if tf.reduce_sum(x) > 0:
        return x
    return -x


def test_a_python_list_may_hold_tensors_of_any_dtype() -> None:
    traced = tf.function(lambda x: call_user_code(collects, x), autograph=False)
    np.testing.assert_array_equal(traced(tf.ones([2])), [4.0, 4.0])


def test_an_if_on_a_tensor_is_a_branch_of_the_graph() -> None:
    traced = tf.function(lambda x: call_user_code(branches, x), autograph=False, input_signature=[tf.TensorSpec([2])])
    np.testing.assert_array_equal(traced(tf.constant([1.0, 2.0])), [1.0, 2.0])
    np.testing.assert_array_equal(traced(tf.constant([-1.0, -2.0])), [1.0, 2.0])
