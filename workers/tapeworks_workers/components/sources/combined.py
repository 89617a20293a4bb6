"""`zip`, `concatenate`, `sample`: sources made of others.

Each takes `sources`: references, or `{"source": …, "pipeline": […]}` with operations of its own, which may shuffle,
map and batch. Validation and test fractions are cut from each source before its pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import tensorflow as tf

from tapeworks import Branch, SourceOfSources, component, errors

_SOURCE = {"component": "iris"}


@component("zip", example={"config": {"sources": {"a": _SOURCE, "b": _SOURCE}}})
class Zip(SourceOfSources):
    """One element of each source side by side: `{NAME: element}`. The sources are not paired: each has an order of
    its own.

    Args:
        sources: by name.
        stop: "shortest" ends with the source that ends first; "longest" begins the others again until the last one
            has ended once.
    """

    def __init__(self, sources: dict[str, Branch], stop: Literal["shortest", "longest"] = "shortest") -> None:
        self.sources = sources
        self.stop = stop

    def combine(self, datasets: Mapping[str, tf.data.Dataset], seed: int) -> tf.data.Dataset:
        if self.stop == "shortest":
            return tf.data.Dataset.zip(dict(datasets))
        sizes = [int(dataset.cardinality()) for dataset in datasets.values()]
        if 0 in sizes or tf.data.INFINITE_CARDINALITY in sizes:
            return tf.data.Dataset.zip({name: dataset.repeat() for name, dataset in datasets.items()})
        if min(sizes) > 0:
            repeated = {name: dataset.repeat() for name, dataset in datasets.items()}
            return tf.data.Dataset.zip(repeated).take(max(sizes))
        # A source whose end only iterating finds: each element says whether its source has ended once.
        marked = {name: _marked(dataset, False).concatenate(_marked(dataset.repeat(), True))
                  for name, dataset in datasets.items()}  # fmt: skip
        return tf.data.Dataset.zip(marked).take_while(_not_all_ended).map(_unmarked)


@tf.autograph.experimental.do_not_convert
def _marked(dataset: tf.data.Dataset, ended: bool) -> tf.data.Dataset:
    @tf.autograph.experimental.do_not_convert
    def mark(*element: Any) -> Any:
        return (element if len(element) > 1 else element[0]), tf.constant(ended)

    return dataset.map(mark)


@tf.autograph.experimental.do_not_convert
def _not_all_ended(marked: Mapping[str, Any]) -> tf.Tensor:
    return ~tf.reduce_all([ended for _, ended in marked.values()])


@tf.autograph.experimental.do_not_convert
def _unmarked(marked: Mapping[str, Any]) -> dict[str, Any]:
    return {name: element for name, (element, _) in marked.items()}


@component("concatenate", example={"config": {"sources": [_SOURCE, _SOURCE]}})
class Concatenate(SourceOfSources):
    """The elements of each source after those of the one before it.

    Args:
        sources: in order; their elements have the same structure and dtypes.
    """

    def __init__(self, sources: list[Branch]) -> None:
        self.sources = sources

    def combine(self, datasets: Sequence[tf.data.Dataset], seed: int) -> tf.data.Dataset:
        _check_alike("concatenate", datasets)
        result = datasets[0]
        for dataset in datasets[1:]:
            result = result.concatenate(dataset)
        return result


@component("sample", example={"config": {"sources": [_SOURCE, _SOURCE]}})
class Sample(SourceOfSources):
    """Draws each element from one of the sources at random, seeded, another draw each pass, until all have ended.

    Args:
        sources: their elements have the same structure and dtypes.
        weights: how often each is drawn from, in any unit; null: equally often. Those that have not ended share
            what one that has would have got: an endless one (`repeat` in its pipeline) keeps its share.
    """

    changes_order = True

    def __init__(self, sources: list[Branch], weights: list[float] | None = None) -> None:
        if weights is not None and (len(weights) != len(sources) or min(weights) < 0 or not sum(weights)):
            raise ValueError(f"weights are 0 or more, one for each of {len(sources)} sources, not {weights}")
        self.sources = sources
        self.weights = weights

    def combine(self, datasets: Sequence[tf.data.Dataset], seed: int) -> tf.data.Dataset:
        _check_alike("sample", datasets)
        weights = None if self.weights is None else [weight / sum(self.weights) for weight in self.weights]
        drawn = tf.data.Dataset.sample_from_datasets(list(datasets), weights, seed=seed)
        sizes = [int(dataset.cardinality()) for dataset in datasets]
        # Restored from a checkpoint after one source has ended, the iterator would look for a next element for ever.
        return drawn.take(sum(sizes)) if min(sizes) >= 0 else drawn


def _check_alike(name: str, datasets: Sequence[tf.data.Dataset]) -> None:
    """Raise JobFailure where the elements of two sources cannot follow each other."""
    first = datasets[0].element_spec
    for index, dataset in enumerate(datasets):
        try:
            tf.nest.map_structure(_check_leaf, first, dataset.element_spec)
        except (TypeError, ValueError) as error:
            raise errors.JobFailure(
                errors.FailureCode.INVALID_DATA,
                f"{name}: the elements of source {index} are not like those of source 0: "
                f"{dataset.element_spec} and {first}",
                hint="Give the branch that differs a pipeline that makes them alike (cast, map).",
                location=errors.Location(component=name),
            ) from error


def _check_leaf(one: Any, other: Any) -> None:
    if type(one) is not type(other) or one.dtype != other.dtype or one.shape.rank != other.shape.rank:
        raise ValueError(f"{one} and {other}")
