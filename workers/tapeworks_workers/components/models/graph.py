"""`graph`: Keras' functional style, written by hand: named nodes, each a layer and what it is called with."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from tapeworks import component

_EXAMPLE = {
    "config": {
        "nodes": [
            {"name": "hidden", "layer": {"component": "keras/Dense", "config": {"units": 3}}, "from": "x"},
            {"name": "both", "layer": {"component": "keras/Concatenate"}, "from": ["x", "hidden"]},
        ],
        "inputs": {"x": {"shape": [4]}},
        "outputs": "both",
    },
    "inputs": tf.TensorSpec([None, 4], tf.float32),
}
_KEYS = {"name", "layer", "from"}
_INPUT_KEYS = {"shape", "dtype", "ragged", "sparse"}


@component("graph", kind="model", example=_EXAMPLE)
def graph(
    nodes: list[dict[str, keras.layers.Layer | str | list[str] | dict[str, str]]],
    outputs: str | dict[str, str],
    inputs: dict[str, dict[str, Any]] | None = None,
    name: str | None = None,
) -> keras.Model:
    """A functional model of named nodes.

    Args:
        nodes: each `{name, layer, from}`. `layer`: an object with `component`, named after its node; or the name of an
            earlier node, whose layer (so, its weights) is shared. `from`: an input or an earlier node; a list of them
            where the layer takes a list; `{argument: name}` where it takes several arguments.
        outputs: a node, or `{output: node}`.
        inputs: `{name: {shape, dtype, ragged, sparse}}`, `shape` without the batch dimension; left out where the
            element says them: a name that is no node is then a key of the element's x, or all of it.
        name: of the model.
    """
    return Draft(nodes, outputs, inputs, name)  # finished by build_model


class Draft:
    """A graph that waits for its inputs: `build_model` makes the functional model."""

    def __init__(
        self,
        nodes: list[Any],
        outputs: str | dict[str, str],
        inputs: dict[str, dict[str, Any]] | None,
        name: str | None,
    ) -> None:
        self._nodes, self._outputs, self._inputs, self._name = nodes, outputs, inputs, name
        self._layers: dict[str, keras.layers.Layer] = {}
        self.input_names = list(inputs or {})
        """The model's inputs, in order: those given, else every name that is no node."""
        if not nodes:
            raise ValueError("nodes is empty: a graph needs at least one")
        names = [node.get("name") for node in nodes]
        for index, node in enumerate(nodes):
            self._check(node, index, names)
        for output in outputs.values() if isinstance(outputs, dict) else [outputs]:
            if output not in names and output not in self.input_names:
                raise ValueError(f"outputs names {output!r}, which is not a node; the nodes are {', '.join(names)}")

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """The layers of the nodes, each once, in order."""
        return list({id(layer): layer for layer in self._layers.values()}.values())

    def _check(self, node: dict[str, Any], index: int, names: list[Any]) -> None:
        name = node.get("name")
        if not isinstance(name, str) or not name or "/" in name:
            raise ValueError(f"nodes[{index}]: name is a string without '/', not {name!r}")
        where = f"the node {name!r}"
        if name in names[:index] or name in (self._inputs or {}):
            raise ValueError(f"{where}: the name is already in use")
        if set(node) - _KEYS or _KEYS - set(node):
            raise ValueError(f"{where} has {', '.join(sorted(node))}; it takes name, layer and from")
        for source in _sources(node["from"], where):
            if source in names[index:]:
                raise ValueError(f"{where} takes {source!r}, which is not before it: put the nodes in order, no cycles")
            if source not in names and source not in self.input_names:
                if self._inputs is not None:
                    known = [*self.input_names, *names[:index]]
                    raise ValueError(
                        f"{where} takes {source!r}, which is not an input or earlier node: {', '.join(known)}"
                    )
                self.input_names.append(source)
        layer = node["layer"]
        if isinstance(layer, str):
            if layer not in names[:index]:
                raise ValueError(f"{where} shares the layer of {layer!r}, which is not an earlier node")
            self._layers[name] = self._layers[layer]
        elif isinstance(layer, keras.layers.Layer):
            if not any(layer is known for known in self._layers.values()):
                layer.name = name  # paths for freeze, adapt and checkpoints
            self._layers[name] = layer
        else:
            raise ValueError(f"{where}: layer is an object with component, or the name of an earlier node")

    def build_model(
        self,
        inputs: Any = None,
        before: Callable[[str, keras.layers.Layer, Any, Any], None] | None = None,
    ) -> keras.Model:
        """The functional model.

        `inputs`: the keras.Input to build from, or a dict of them by name; None: those of the config. `before(name,
        layer, inputs, argument)` is called before each layer's first node, with the symbolic tensors so far.
        """
        given = self._given_inputs() if inputs is None else inputs
        tensors: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {self.input_names[0]: given}
        missing = [name for name in self.input_names if name not in tensors]
        if missing:
            raise ValueError(f"the graph takes {', '.join(map(repr, missing))}, which is neither a node nor an input")
        called: set[int] = set()
        for node in self._nodes:
            layer, source = self._layers[node["name"]], node["from"]
            argument = _chosen(source, tensors)
            if before is not None and id(layer) not in called:
                before(layer.name, layer, given, argument)
            called.add(id(layer))
            try:
                tensors[node["name"]] = layer(**argument) if isinstance(argument, dict) else layer(argument)
            except Exception as error:
                raise ValueError(f"the node {node['name']!r}: {type(error).__name__}: {error}") from error
        with warnings.catch_warnings():
            # An input cannot have the name of every column ("a/b"); a dict goes by its keys.
            warnings.filterwarnings("ignore", message="When providing `inputs` as a dict")
            return keras.Model(given, _chosen(self._outputs, tensors), name=self._name)

    def _given_inputs(self) -> Any:
        """One keras.Input, or a dict of them where there are several."""
        if self._inputs is None:
            raise ValueError("a graph inside another model needs its inputs: {name: {shape, dtype}}")
        made = {}
        for name, spec in self._inputs.items():
            unknown = set(spec) - _INPUT_KEYS
            if unknown or not isinstance(spec.get("shape"), list):
                raise ValueError(
                    f"inputs.{name} is {{shape, dtype, ragged, sparse}}, shape a list; it has {sorted(spec)}"
                )
            made[name] = keras.Input(
                tuple(spec["shape"]), dtype=spec.get("dtype"), name=name.replace("/", "_"),
                ragged=spec.get("ragged", False), sparse=spec.get("sparse", False),
            )  # fmt: skip
        return made if len(made) > 1 else made[self.input_names[0]]


def _sources(source: Any, where: str) -> list[str]:
    names = list(source.values()) if isinstance(source, dict) else source if isinstance(source, list) else [source]
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where}: from is a name, a list of names, or {{argument: name}}")
    return names


def _chosen(names: Any, tensors: Mapping[str, Any]) -> Any:
    if isinstance(names, dict):
        return {key: tensors[name] for key, name in names.items()}
    return [tensors[name] for name in names] if isinstance(names, list) else tensors[names]
