"""Random numbers of data functions without state: those of an element follow from its position in the data.

A seed generator of Keras, a `tf.random.Generator` or one of TensorFlow's random operations keeps a state, and inside
tf.data this state runs ahead of training: parallel calls and prefetching draw for elements that no step has seen.
A checkpoint of it would be wrong. Here the functions are traced so that pass, position of the element and number of
the draw give the numbers, and nothing has to be saved.

    seeded(seed)        unseeded randomness of Python, NumPy and TensorFlow inside the block follows from the seed
    Draws               records what one trace of a function draws; with a `Position`, makes the draws stateless

A Keras seed generator that starts at (a, b) and is drawn from K times for each element gives what it gives in plain
Keras to a sequential `map`: draw k of element i is (a, b + i * K + k). Where the number of elements is known, later
passes continue the count as in plain Keras; otherwise a is folded with the number of the pass.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.data.ops import dataset_ops
from tensorflow.python.eager import context as eager_context
from tensorflow.python.framework import random_seed
from tensorflow.python.ops import gen_image_ops, gen_random_ops
from tensorflow.python.ops.control_flow_v2_func_graphs import CondBranchFuncGraph

from tapeworks_workers.engine.graph.randomness import derive_seed

PHILOX = 1
_SKIPPED = 256
"""Counter units of a tf.random.Generator for each number drawn (`RngReadAndSkip`)."""


@contextlib.contextmanager
def seeded(seed: int, number: int = 0) -> Iterator[None]:
    """Randomness that a user's code leaves unseeded follows from `seed` inside the block; afterwards all is as before.

    `number`: of the pass for which a dataset is built anew; a seeded shuffle that would go on to another order then
    gets another seed.
    """
    own = derive_seed(seed, "data", number)
    counted = itertools.count()

    def get_seed(op_seed: int | None) -> Any:
        if op_seed is None and (tf.executing_eagerly() or tf.compat.v1.get_default_graph().seed is None):
            if not tf.executing_eagerly() or eager_context.global_seed() is None:
                return own, derive_seed(own, next(counted))
        return _GET_SEED(op_seed)

    def default_rng(seed: Any = None) -> np.random.Generator:
        return _DEFAULT_RNG(derive_seed(own, "numpy", next(counted)) if seed is None else seed)

    def from_non_deterministic_state(cls: Any = tf.random.Generator, alg: Any = None) -> tf.random.Generator:
        return cls.from_seed(derive_seed(own, "generator", next(counted)), alg=alg)

    def shuffle(
        dataset: Any, buffer_size: Any, seed: Any = None, reshuffle_each_iteration: Any = True, name: Any = None
    ) -> Any:
        if number and isinstance(seed, int) and reshuffle_each_iteration is not False:
            seed = derive_seed(seed, "pass", number)
        return _SHUFFLE(dataset, buffer_size, seed, reshuffle_each_iteration, name)

    eager: Any = eager_context.context()
    with _replaced(
        (random_seed, "get_seed", get_seed),
        (np.random, "default_rng", default_rng),
        (tf.random.Generator, "from_non_deterministic_state", classmethod(from_non_deterministic_state)),
        (dataset_ops.DatasetV2, "shuffle", shuffle),
        (eager, "_seed", None),
        (eager, "_rng", random.Random(own)),  # noqa: S311
    ):
        before = random.getstate(), np.random.get_state()
        random.seed(own)
        np.random.seed(own)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


@contextlib.contextmanager
def _replaced(*attributes: tuple[Any, str, Any]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for owner, name, value in attributes:
            stack.callback(setattr, owner, name, vars(owner).get(name))
            setattr(owner, name, value)
        yield


@dataclass(frozen=True)
class Position:
    """Where in the data an element stands: what its random numbers follow from."""

    seed: int
    """Of the operation."""
    place: tf.Tensor
    """Pass and index of the element within it, as `first_of_pass` counts them: an int64 scalar."""
    size: int | None
    """Elements in a pass, where that is known."""
    draws: Mapping[Any, int] | None = None
    """What one element draws from each generator, counted as the generator counts; None: not known."""

    def state(self, generator: Any, first: int, drawn: int) -> tuple[Any, Any]:
        """(seed, count) of a generator with the seed `first` before this draw; `drawn`: by the element before it."""
        each = (self.draws or {}).get(generator)
        if each is None:
            return derive_seed(first, drawn), self.place
        number, index = self.place // _PASS, self.place % _PASS
        if self.size is None:
            return first + number * _OF_A_PASS, index * each + drawn
        return first, (number * self.size + index) * each + drawn


def first_of_pass(number: int) -> int:
    """The place of the first element of a pass; the others follow."""
    return number * _PASS


_PASS = 1 << 40
"""More elements than a pass has."""
_OF_A_PASS = 0x9E3779B1
"""Between the seeds of two passes: odd, so that many passes differ."""


@dataclass
class Draws:
    """The random draws of one trace of a data function; each `with` block is one trace."""

    position: Position | None = None
    """None: the draws are counted and stay as they are."""
    counts: Counter[Any] = field(default_factory=Counter)
    """Generator → draws (of a `tf.random.Generator`: numbers; of operations without one, under None: operations)."""
    uncounted: set[Any] = field(default_factory=set)
    """Generators of which it is not known how many numbers an element draws."""
    _graph: Any = None

    def of_an_element(self) -> dict[Any, int]:
        """What one element draws from each generator of which that is known."""
        return {generator: count for generator, count in self.counts.items() if generator not in self.uncounted}

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Around the call of the function, inside the graph that is traced."""
        self._graph = tf.compat.v1.get_default_graph()
        self.counts.clear()
        with _replaced(
            (keras.random.SeedGenerator, "next", self._next),
            (tf.random.Generator, "_prepare_key_counter", self._key_and_counter),
            *((module, name, self._operation(name, vars(module)[name], make)) for (module, name), make in _STATELESS),
        ):
            yield

    def _draw(self, generator: Any, amount: int = 1) -> int:
        """Count a draw; what was drawn before it."""
        before = self.counts[generator]
        self.counts[generator] += amount
        return before

    def _once(self) -> bool:
        """Whether what is traced now runs once for each element. A loop's body and another function may run often."""
        graph = tf.compat.v1.get_default_graph()
        while isinstance(graph, CondBranchFuncGraph):
            graph = graph.outer_graph
        return graph is self._graph

    @property
    def _next(self) -> Callable[..., Any]:
        def following(generator: Any, ordered: bool = True) -> Any:
            if not self._once():
                return _NEXT(generator, ordered)
            drawn = self._draw(generator)
            if self.position is None:
                return _NEXT(generator, ordered)
            if ordered:
                first, second = _value(generator.state)
            else:  # Keras' global generator: whatever else is built draws from it too
                first, second = derive_seed(self.position.seed, "keras"), 0
            first, count = self.position.state(generator, first, drawn)
            seeds = [tf.cast(first, tf.int64), second + count]
            return tf.cast(tf.stack(seeds), generator.state.dtype)

        return following

    @property
    def _key_and_counter(self) -> Callable[..., Any]:
        def prepared(generator: Any, shape: Any) -> Any:
            if not self._once() or tf.get_static_value(generator.algorithm) != PHILOX:
                return _KEY_AND_COUNTER(generator, shape)
            known = tf.get_static_value(tf.convert_to_tensor(shape))
            if known is None:
                self.uncounted.add(generator)
            drawn = self._draw(generator, 1 if known is None else int(np.prod(known)))
            if self.position is None:
                return _KEY_AND_COUNTER(generator, shape)
            low, high, key = _value(generator.state)
            key, count = self.position.state(generator, key, drawn)
            counter = tf.stack([low + count * _SKIPPED, tf.constant(high, tf.int64)])
            return tf.bitcast(tf.reshape(tf.cast(key, tf.int64), [1]), tf.uint64), tf.bitcast(counter, tf.uint64)

        return prepared

    def _operation(self, name: str, original: Callable[..., Any], make: Callable[..., Any]) -> Callable[..., Any]:
        def drawn(*args: Any, **kwargs: Any) -> Any:
            if not self._once():
                return original(*args, **kwargs)
            number = self._draw(None)
            if self.position is None:
                return original(*args, **kwargs)
            kwargs.pop("seed", None), kwargs.pop("seed2", None)
            seed = tf.constant(derive_seed(self.position.seed, name, number), tf.int64)
            return make(*args, **kwargs, seeds=tf.stack([seed, self.position.place]))

        return drawn


def _value(variable: Any) -> list[int]:
    """What a generator starts from: a constant of the graph."""
    with tf.init_scope():
        return [int(one) for one in np.asarray(keras.ops.convert_to_numpy(variable))]


# ── TensorFlow's random operations, with a seed for each call ────────────────────────────────────


def _uniform(shape: Any, dtype: Any, name: Any = None, *, seeds: Any) -> Any:
    return tf.random.stateless_uniform(shape, seeds, dtype=dtype, alg="philox")


def _uniform_int(shape: Any, minval: Any, maxval: Any, name: Any = None, *, seeds: Any) -> Any:
    return tf.random.stateless_uniform(shape, seeds, minval, maxval, tf.convert_to_tensor(minval).dtype, alg="philox")


def _normal(shape: Any, dtype: Any, name: Any = None, *, seeds: Any) -> Any:
    return tf.random.stateless_normal(shape, seeds, dtype=dtype, alg="philox")


def _truncated_normal(shape: Any, dtype: Any, name: Any = None, *, seeds: Any) -> Any:
    return tf.random.stateless_truncated_normal(shape, seeds, dtype=dtype, alg="philox")


def _shuffled(value: Any, name: Any = None, *, seeds: Any) -> Any:
    return tf.random.experimental.stateless_shuffle(value, seeds, alg="philox")


def _categorical(logits: Any, num_samples: Any, output_dtype: Any = tf.int64, name: Any = None, *, seeds: Any) -> Any:
    return tf.random.stateless_categorical(logits, num_samples, seeds, output_dtype)


def _box(image_size: Any, bounding_boxes: Any, min_object_covered: Any, *, seeds: Any, **options: Any) -> Any:
    return gen_image_ops.stateless_sample_distorted_bounding_box(
        image_size, bounding_boxes, min_object_covered, seed=seeds, **options
    )


_STATELESS: tuple[tuple[tuple[Any, str], Callable[..., Any]], ...] = (
    ((gen_random_ops, "random_uniform"), _uniform),
    ((gen_random_ops, "random_uniform_int"), _uniform_int),
    ((gen_random_ops, "random_standard_normal"), _normal),
    ((gen_random_ops, "truncated_normal"), _truncated_normal),
    ((gen_random_ops, "random_shuffle"), _shuffled),
    ((gen_random_ops, "multinomial"), _categorical),
    ((gen_image_ops, "sample_distorted_bounding_box_v2"), _box),
)

_NEXT: Any = keras.random.SeedGenerator.next
_KEY_AND_COUNTER: Any = tf.random.Generator._prepare_key_counter
_GET_SEED: Any = random_seed.get_seed
_DEFAULT_RNG: Any = np.random.default_rng
_SHUFFLE: Any = dataset_ops.DatasetV2.shuffle
