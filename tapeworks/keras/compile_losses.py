"""What `compile` was given as losses and their weights, in the form of a spec.

`losses(…)` follows CompileLoss: the same structures mean the same, and what `fit` refuses or silently drops raises
ComponentError. Outputs are named as a spec names them: by the output's name,
its key, or its path (`h/0`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tapeworks.errors import ComponentError
from tapeworks.keras.references import component_name, keras, reference
from tapeworks.spec.references import Kind

_ENTROPY = ("crossentropy", "ce")
_REDUCTION = "sum_over_batch_size"
Path = tuple[Any, ...]


@dataclass(frozen=True)
class Outputs:
    """The outputs of a model, as far as they are known without its data."""

    struct: Any
    """Nest of symbolic tensors; None where only a call would show it."""
    names: tuple[str, ...]
    """Keras' `output_names`; () where the model has none."""

    @property
    def single(self) -> bool:
        """Whether there is known to be one output that is a tensor."""
        return self.struct is not None and not nested(self.struct)

    @property
    def only(self) -> bool:
        """Whether there is known to be one tensor, in a list or dict or by itself."""
        return self.struct is not None and len(keras().tree.flatten(self.struct)) == 1

    @property
    def flat(self) -> bool:
        """Whether the outputs are one list, tuple or dict of tensors."""
        return nested(self.struct) and len(self.struct) == len(keras().tree.flatten(self.struct))

    def key(self, path: Path) -> str:
        """What a spec calls the output at a path of the structure."""
        unique = len(set(self.names)) == len(self.names)
        if self.flat and not isinstance(self.struct, Mapping) and unique and len(self.names) == len(self.struct):
            return self.names[path[0]]
        return "/".join(str(step) for step in path)

    def width(self, path: Path) -> int | None:
        """The last dimension of an output."""
        value = self.struct if path or self.struct is None else keras().tree.flatten(self.struct)[0]
        for step in path:
            value = value[step]
        return value.shape[-1] if value is not None and len(value.shape) else None


def outputs_of(model: Any) -> Outputs:
    """The outputs of a functional or sequential model; of another one nothing is known before it is called."""
    names = getattr(model, "output_names", None)
    functional = getattr(model, "_functional", None) or model
    return Outputs(getattr(functional, "_outputs_struct", None), tuple(names or ()))


def nested(value: Any) -> bool:
    """Whether it is a list, tuple or dict."""
    return bool(keras().tree.is_nested(value)) if value is not None else False


# ── losses ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Weighted:
    """A loss and its weight: a leaf, as Keras packs them together."""

    loss: Any
    weight: float


def losses(loss: Any, weights: Any, outputs: Outputs, floatx: str) -> Any:
    """The loss of a role; None where `compile` was given none."""
    if loss is None:
        return None
    weighted = _with_weights(*_in_order(loss, weights, outputs))
    leaves = [leaf for leaf in keras().tree.flatten(weighted) if leaf is not None]
    unnamed = not outputs.names and not outputs.single
    if outputs.single and nested(weighted):
        if len(leaves) != 1:
            raise ComponentError(
                f"the model has one output and {len(leaves)} losses, but `fit` uses only the first: give one loss"
            )
        weighted = leaves[0]
    if isinstance(weighted, _Weighted):
        return _one(weighted, outputs, floatx, named=unnamed)
    found: dict[str, list[Any]] = {}
    for path, leaf in _by_path(weighted, outputs.struct, ()):
        made = _one(leaf, outputs, floatx, path=path, named=unnamed, always=True)
        found.setdefault(outputs.key(path), []).append(made)
    return {"outputs": {key: made[0] if len(made) == 1 else made for key, made in found.items()}}


def _in_order(loss: Any, weights: Any, outputs: Outputs) -> tuple[Any, Any]:
    """A dict of losses by output names, for outputs that are no dict, is a list in the outputs' order."""
    if not isinstance(loss, Mapping) or not outputs.names or isinstance(outputs.struct, Mapping):
        return loss, weights
    if set(loss) != set(outputs.names):
        raise ComponentError(f"losses are given for {sorted(loss)}, the model's outputs are {sorted(outputs.names)}")
    if isinstance(weights, Mapping):
        if not set(outputs.names) <= set(weights):
            raise ComponentError(f"loss_weights are given for {sorted(weights)}, the losses are for {sorted(loss)}")
        weights = [weights[name] for name in outputs.names]
    return [loss[name] for name in outputs.names], weights


def _with_weights(loss: Any, weights: Any) -> Any:
    """The structure of losses with a weight at each, as Keras pairs them; None where there is no loss."""
    tree = keras().tree
    flat = tree.flatten(loss)
    paired = [1.0] * len(flat) if weights is None else tree.flatten(weights)
    if len(flat) != len(paired):
        raise ComponentError(
            f"loss_weights must match the number of losses: there are {len(flat)} losses and {len(paired)} weights"
        )
    made = [
        None if one is None else _Weighted(one, 1.0 if weight is None else float(weight))
        for one, weight in zip(flat, paired, strict=True)
    ]
    return tree.pack_sequence_as(loss, made)


def _by_path(loss: Any, struct: Any, path: Path) -> Iterator[tuple[Path, _Weighted]]:
    """(path of an output, loss) in the order in which Keras adds them up. `struct` is None where it is not known."""
    tree = keras().tree
    if loss is None:
        return
    if isinstance(loss, _Weighted):
        if nested(struct):
            raise ComponentError(f"one loss stands for the several outputs at {path_text(path)}: give one for each")
        yield path, loss
        return
    if struct is not None and isinstance(loss, list | tuple):
        flat = not any(nested(item) for item in loss)
        if flat and len(loss) == len(tree.flatten(struct)):
            packed = tree.pack_sequence_as(struct, list(loss))
            yield from _below(packed, struct, path) if nested(packed) else _by_path(packed, struct, path)
            return
        if not nested(struct):
            for item in loss:
                yield from _by_path(item, struct, path)
            return
    if struct is not None and not isinstance(loss, type(struct)):
        raise ComponentError(
            f"the losses at {path_text(path)} are {kind_of(loss)}, the outputs there are {kind_of(struct)}"
        )
    yield from _below(loss, struct, path)


def _below(loss: Any, struct: Any, path: Path) -> Iterator[tuple[Path, _Weighted]]:
    for key, item in loss.items() if isinstance(loss, Mapping) else enumerate(loss):
        if item is None:
            continue
        if struct is not None and (key not in struct if isinstance(struct, Mapping) else key >= len(struct)):
            raise ComponentError(
                f"there is a loss for the output {path_text((*path, key))}, which the model does not have"
            )
        yield from _by_path(item, None if struct is None else struct[key], (*path, key))


def path_text(path: Path) -> str:
    """A path as a message names it."""
    return repr("/".join(str(step) for step in path)) if path else "the top"


def kind_of(value: Any) -> str:
    """`a list`, as a message names it."""
    return f"a {type(value).__name__}"


def _one(
    weighted: _Weighted, outputs: Outputs, floatx: str, *, path: Path = (), named: bool = False, always: bool = False
) -> dict[str, Any]:
    """The reference of a loss, with its weight where it has one."""
    given = weighted.loss
    if isinstance(given, str) and given.lower() in _ENTROPY:
        given = _entropy(given, outputs, path)
    made = measure(given, Kind.LOSS, floatx)
    if named and isinstance(weighted.loss, str):
        made["config"] = {**made["config"], "name": weighted.loss}  # `fit` reports it under this name
    return {**made, "weight": weighted.weight} if always or weighted.weight != 1.0 else made


def _entropy(given: str, outputs: Outputs, path: Path) -> str:
    """`"crossentropy"` is chosen by the shapes of labels and outputs, of which only the outputs' is known here."""
    if outputs.struct is not None and not nested(outputs.struct) and outputs.width(()) == 1:
        return "binary_crossentropy"
    raise ComponentError(
        f"the loss {given!r} depends on the shape of the labels: give sparse_categorical_crossentropy, "
        "categorical_crossentropy or binary_crossentropy"
    )


# ── one loss or metric ───────────────────────────────────────────────────────────────────────────


def measure(given: Any, kind: Kind, floatx: str) -> dict[str, Any]:
    """A loss or metric as `compile` takes it: a short name, a class, an instance or a function."""
    module = keras().losses if kind is Kind.LOSS else keras().metrics
    try:
        made = module.get(given)
    except ValueError as error:
        raise ComponentError(f"{given!r} is not a {kind} of Keras") from error
    wrapped = _wrapped(made)
    if wrapped is not None:
        inner = measure(wrapped, kind, floatx)
        own = {"name": made.name, **({} if made.dtype == floatx else {"dtype": made.dtype})}
        own |= {"reduction": made.reduction} if getattr(made, "reduction", _REDUCTION) != _REDUCTION else {}
        return {**inner, "config": {**inner["config"], **own}}
    if not inspect.isfunction(made):
        found = reference(made, f"the {kind}", floatx=floatx)
        if not isinstance(given, str):
            return found
        return {**found, "config": {key: value for key, value in found["config"].items() if key != "name"}}
    registered = keras().saving.get_registered_name(made)
    if ">" in registered:
        package, _, name = registered.partition(">")
        return {"component": name if package == "tapeworks" else f"{package}/{name}", "config": {}}
    cls = _class_of(made, module, kind)
    if cls is None:
        raise ComponentError(
            f"the {kind} {made.__name__!r} is a plain function: put @tapeworks.component on it, or use a class"
        )
    return {"component": component_name(cls, kind, f"the {kind}"), "config": {}}


def _wrapped(made: Any) -> Any:
    """The function of Keras inside a `MeanMetricWrapper` or `LossFunctionWrapper` without arguments for it."""
    if type(made).__name__ not in ("MeanMetricWrapper", "LossFunctionWrapper") or made._fn_kwargs:
        return None
    function = getattr(made, "fn", None) or getattr(made, "_fn", None)
    keras_own = inspect.isfunction(function) and (function.__module__ or "").partition(".")[0] == "keras"
    return function if keras_own else None


def _class_of(function: Callable[..., Any], module: Any, kind: Kind) -> type | None:
    """Keras' class that calls a function of Keras with the function's own defaults."""
    bare = function.__name__.replace("_", "").lower()
    for name, cls in vars(module).items():
        if not inspect.isclass(cls) or name.lower() != bare:
            continue
        instance = cls()
        if getattr(instance, "fn" if kind is Kind.LOSS else "_fn", None) is function:
            return cls
    return None
