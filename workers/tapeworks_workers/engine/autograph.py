"""Where AutoGraph ends and begins: a user's step is converted as under tf.function, the engine below it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.autograph.core import ag_ctx, converter
from tensorflow.python.autograph.impl import api

engine_code = tf.autograph.experimental.do_not_convert
"""Decorates what a converted step calls and AutoGraph leaves alone."""


def call_user_code(function: Callable[..., Any], *args: Any) -> Any:
    """Call a user's function; under tracing, a Python if or while on a tensor becomes a graph operation.

    The original exception comes out, not tf.function's copy of it, which loses its type and fields.
    """
    if tf.executing_eagerly():
        return function(*args)
    options = converter.ConversionOptions(recursive=True, user_requested=True)
    with ag_ctx.ControlStatusCtx(status=ag_ctx.Status.ENABLED, options=options):
        return api.converted_call(function, args, {}, options=options)
