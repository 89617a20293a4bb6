"""What happens while a step is traced: where AutoGraph ends and begins, and how variables are made beside the trace.

A user's step is converted as under tf.function, the engine below it is not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.autograph.core import ag_ctx, converter
from tensorflow.python.autograph.impl import api
from tensorflow.python.ops.resource_variable_ops import ResourceVariable

engine_code = tf.autograph.experimental.do_not_convert
"""Decorates what a converted step calls and AutoGraph leaves alone."""


def call_user_code(function: Callable[..., Any], *args: Any) -> Any:
    """Call a user's function; under tracing, a Python if or while on a tensor becomes a graph operation.

    The original exception comes out, not tf.function's copy of it, which loses its type and fields.
    """
    if tf.executing_eagerly():
        return function(*args)
    # As tf.function does: without the optional features, whose own control dependencies let assertions be pruned.
    options = converter.ConversionOptions(recursive=True, user_requested=True, optional_features=None)
    with ag_ctx.ControlStatusCtx(status=ag_ctx.Status.ENABLED, options=options):
        return api.converted_call(function, args, {}, options=options)


@contextlib.contextmanager
def outside_trace() -> Iterator[None]:
    """Make variables that a trace needs and does not own: accumulators, the state of metrics built at first use.

    tf.function notes every variable made while it traces, in `tf.init_scope` too, and traces a second
    time because of it; a creator of our own keeps ours from its list.
    """
    with tf.init_scope(), tf.variable_creator_scope(_plain_variable):
        yield


def _plain_variable(next_creator: Any, **kwargs: Any) -> Any:
    known = ("initial_value", "trainable", "dtype", "name", "shape", "synchronization", "aggregation")
    return ResourceVariable(**{name: kwargs[name] for name in known if name in kwargs})


def peek(variable: tf.Variable) -> Any:
    """A variable's value on the host, as NumPy has it.

    `variable.numpy()` goes through an identity operation with its dispatch in Python, which takes longer than a step
    of a small model.
    """
    return tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype).numpy()
