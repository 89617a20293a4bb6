"""Suggested fixes for models that do not come back, for the process that loads them and the one that compares.

`reload.py` imports this file by path: nothing is imported here.
"""

STATE_HINT = "Keep what a layer learns in Keras variables (add_weight), and every argument of __init__ in its config."
CONFIG_HINT = "Give every argument of __init__ a place in get_config(), or leave get_config out and let it be derived."
PRECISION_HINT = (
    "A layer must not depend on the floatx and the dtype policy of the process: pass `dtype` on to what it makes."
)
