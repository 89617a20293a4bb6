"""A part of a set-up, described once: the Keras object that `fit` takes and the reference that a spec holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from tapeworks.components.registry import registry
from tapeworks.spec.references import Kind

_MODULES: dict[Kind, Any] = {
    Kind.LAYER: keras.layers,
    Kind.LOSS: keras.losses,
    Kind.METRIC: keras.metrics,
    Kind.OPTIMIZER: keras.optimizers,
    Kind.SCHEDULE: keras.optimizers.schedules,
    Kind.INITIALIZER: keras.initializers,
    Kind.REGULARIZER: keras.regularizers,
    Kind.CONSTRAINT: keras.constraints,
}


@dataclass(frozen=True)
class Part:
    """A class with its arguments. `form` says how `compile` is given it; a spec has one form only."""

    kind: Kind
    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    form: str = "instance"
    """`instance`, `function`, or the short name of Keras' own (`mse`)."""
    change: Callable[[Any], None] | None = None
    """What is done to the instance after it was made: no spec can hold it."""

    def made(self) -> Any:
        """What a user would give to Keras."""
        if self.form not in ("instance", "function"):
            return self.form
        target = self._target()
        if self.form == "function":
            return target
        made = target(**{key: _made(value) for key, value in self.config.items()})
        if self.change is not None:
            self.change(made)
        return made

    def reference(self) -> dict[str, Any]:
        """What a user would write in a spec."""
        return {"component": self.name, "config": {key: _reference(value) for key, value in self.config.items()}}

    def _target(self) -> Any:
        if not self.name.startswith("keras/"):
            return registry.get(self.kind, self.name).target
        return getattr(_MODULES[self.kind], self.name.removeprefix("keras/"))

    def __str__(self) -> str:
        given = ", ".join(f"{key}={value}" for key, value in self.config.items())
        form = f" as {self.form}" if self.form != "instance" else ""
        changed = f" changed by {self.change.__name__}" if self.change is not None else ""
        return f"{self.name.removeprefix('keras/')}({given}){form}{changed}"

    __repr__ = __str__


def _made(value: Any) -> Any:
    if isinstance(value, Part):
        return value.made()
    return [_made(item) for item in value] if isinstance(value, list) else value


def _reference(value: Any) -> Any:
    if isinstance(value, Part):
        return value.reference()
    return [_reference(item) for item in value] if isinstance(value, list) else value


def layer(name: str, /, **config: Any) -> Part:
    return Part(Kind.LAYER, name if "/" in name else f"keras/{name}", config)


def loss(name: str, form: str = "instance", /, **config: Any) -> Part:
    return Part(Kind.LOSS, name if "/" in name else f"keras/{name}", config, form)


def metric(name: str, form: str = "instance", /, **config: Any) -> Part:
    return Part(Kind.METRIC, name if "/" in name else f"keras/{name}", config, form)


def start(seed: int) -> Part:
    """An initialiser that gives both sides one start."""
    kinds = ("GlorotUniform", "HeNormal", "TruncatedNormal", "Orthogonal", "LecunUniform", "RandomNormal")
    return Part(Kind.INITIALIZER, f"keras/{kinds[seed % len(kinds)]}", {"seed": seed})
