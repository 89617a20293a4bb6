"""The global precision under which a layer was made, kept for its whole life.

A layer that makes layers of its own without a dtype gives them the global dtype policy of the process, which no config
keeps. Loaded in another process they would have that one's. Each layer remembers the policy that was global when it was
made, and its `__init__`, `build` and `__call__` run under it wherever it is loaded. It is written into the config, as
`made_under`, where it is not the object's own `dtype`.

Like `serialization.py`, this file goes into every bundle as it is: the standard library and Keras are all it uses.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

MADE_UNDER = "made_under"
"""The key of a config that holds the global dtype policy under which a layer was made."""


def remember(layer: Any) -> None:
    """Keep the policy that is global now; called before `__init__`."""
    policy = _keras().config.dtype_policy().name
    object.__setattr__(layer, "_made_under", policy)
    object.__setattr__(layer, "_lives_under", policy)


def remember_own(layer: Any) -> None:
    """Keep the layer's own policy; called after `__init__`."""
    object.__setattr__(layer, "_dtype_at_first", policy_name(getattr(layer, "dtype_policy", None)))


def changed(layer: Any) -> bool:
    """Whether the layer's own policy was assigned after `__init__` (`quantize` does so)."""
    policy = getattr(layer, "dtype_policy", None)
    return policy is None or layer.__dict__.get("_dtype_at_first") != policy_name(policy)


def keep(cls: Any, *, own_build: bool) -> None:
    """Wrap a layer's class so that it is made and built under the policy that it remembers, and its config says it."""
    if own_build and not getattr(cls.build, "_remembers", False):
        cls.build = _under_own_policy(cls.build)
    if not getattr(cls.get_config, "_remembers", False):
        cls.get_config = _with_policy(cls.get_config)
    revive = cls.from_config.__func__
    if not getattr(revive, "_remembers", False):
        cls.from_config = classmethod(_revived_under_policy(revive))


def of(layer: Any) -> str | None:
    """The policy that a layer lives under; None where it is not known."""
    name: str | None = layer.__dict__.get("_lives_under")
    return name


def _under_own_policy(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        with under(of(self)):
            return original(self, *args, **kwargs)

    method._remembers = True  # type: ignore[attr-defined]
    return method


def _with_policy(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def get_config(self: Any) -> dict[str, Any]:
        config: dict[str, Any] = original(self)
        made_under = self.__dict__.get("_made_under")
        if made_under is None or made_under == policy_name(config.get("dtype")):
            return config
        return {**config, MADE_UNDER: made_under}

    get_config._remembers = True  # type: ignore[attr-defined]
    return get_config


def _revived_under_policy(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def from_config(cls: Any, config: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        config = dict(config)
        made_under = config.pop(MADE_UNDER, None)
        made_under = made_under or policy_name(config.get("dtype"))
        with under(made_under):
            instance = original(cls, config, *args, **kwargs)
        if "_lives_under" not in instance.__dict__:  # of a class that its author registered with Keras
            object.__setattr__(instance, "_lives_under", made_under)
        return instance

    from_config._remembers = True  # type: ignore[attr-defined]
    return from_config


def policy_name(policy: Any) -> str | None:
    """The name of a policy given as an object, a name or the config of either."""
    if isinstance(policy, Mapping):
        config = policy.get("config")
        policy = config.get("name") if isinstance(config, Mapping) else None
    return policy if policy is None or isinstance(policy, str) else getattr(policy, "name", None)


@contextmanager
def under(name: str | None) -> Iterator[None]:
    """The block runs with this global dtype policy, and the floatx that goes with it."""
    config = _keras().config
    policy = config.dtype_policy()
    if name is None or name == policy.name:
        yield
        return
    floatx = config.floatx()
    try:
        wanted = _keras().dtype_policies.get(name)
    except (TypeError, ValueError):
        wanted = None  # a policy of the author's own: it is never global
    if wanted is None or wanted.quantization_mode is not None:
        yield
        return
    config.set_dtype_policy(wanted)
    config.set_floatx("float64" if wanted.variable_dtype == "float64" else "float32")
    try:
        yield
    finally:
        config.set_dtype_policy(policy)
        config.set_floatx(floatx)


def _keras() -> Any:
    return importlib.import_module("keras")
