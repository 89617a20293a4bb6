"""`balance`: classes as often as each other, whatever the data holds of them."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tapeworks import component


@component(
    "balance",
    kind="dataset_function",
    example={
        "config": {"classes": 2, "take": 0},  # invented labels may lack a class
        "inputs": (tf.TensorSpec([3], tf.float32), tf.TensorSpec([], tf.int64)),
    },
)
class Balance:
    """Draws each element from a class chosen at random, seeded, another draw each pass.

    Elements are `(x, y, …)`, y an integer from 0. Each class is read from the beginning again when it has ended, so
    the result is endless: `take` says how many elements make an epoch. The data is read once for each class, so put
    `cache` before it where it fits into memory, and `shuffle` where its order matters. Every class must be there.

    Args:
        classes: how many there are.
        weights: how often each is drawn, in any unit; default: equally often.
        take: elements in an epoch; null: endless (training.steps_per_epoch or max_steps must end it).
    """

    changes_order = True

    def __init__(self, classes: int, weights: list[float] | None = None, take: int | None = None) -> None:
        if classes < 2:
            raise ValueError(f"classes is 2 or more, not {classes}")
        if weights is not None and (len(weights) != classes or min(weights) <= 0):
            raise ValueError(f"weights are above 0, one for each of {classes} classes, not {weights}")
        self.classes, self.weights, self.take = classes, weights, take

    def __call__(self, dataset: tf.data.Dataset, seed: Any = 0) -> tf.data.Dataset:
        of_class = [
            # Only a class without an element ends, and then the element after its end is read.
            dataset.filter(self._is(number)).repeat().concatenate(dataset.take(1).map(self._absent(number)))
            for number in range(self.classes)
        ]
        weights = None if self.weights is None else [weight / sum(self.weights) for weight in self.weights]
        drawn = tf.data.Dataset.sample_from_datasets(of_class, weights, seed=seed, stop_on_empty_dataset=True)
        return drawn if self.take is None else drawn.take(self.take)

    def _absent(self, number: int) -> Any:
        @tf.autograph.experimental.do_not_convert
        def fail(*element: Any) -> Any:
            message = (
                f"invalid data: balance: no element has the label {number}, and each of 0 … {self.classes - 1} must "
                "occur: give balance the number of classes that there are, and map labels to numbers from 0"
            )
            with tf.control_dependencies([tf.debugging.Assert(False, [message])]):
                return tf.nest.map_structure(tf.identity, element)

        return fail

    def _is(self, number: int) -> Any:
        @tf.autograph.experimental.do_not_convert
        def belongs(x: Any, y: Any, *rest: Any) -> tf.Tensor:
            return tf.cast(y, tf.int64) == number

        return belongs
