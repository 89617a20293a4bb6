"""Functions for `map`, `filter` and `apply`: TensorFlow code, traced once, run by several threads."""

import tensorflow as tf

from tapeworks import component


@component("acme/Speckle")
class Speckle:
    """Adds noise to a picture, another in every pass and the same in every attempt: `seed` is the element's own."""

    def __init__(self, amount: float = 0.1):
        self.amount = amount

    def __call__(self, image, seed):
        return image + self.amount * tf.random.stateless_normal(tf.shape(image), seed)


@component("acme/Below")
class Below:
    """Whether a feature of an element is below a limit."""

    def __init__(self, feature: str, limit: float):
        self.feature = feature
        self.limit = limit

    def __call__(self, x, y):
        return x[self.feature] < self.limit


@component("acme/WordIds")
class WordIds:
    """The words of each text as ids from 1, padded with 0: `(batch, longest)`."""

    def __init__(self, bins: int = 499):
        self.bins = bins

    def __call__(self, texts):
        words = tf.strings.split(tf.strings.lower(texts))
        return 1 + words.with_values(tf.strings.to_hash_bucket_fast(words.values, self.bins)).to_tensor(-1)
