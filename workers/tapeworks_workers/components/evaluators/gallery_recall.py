"""`gallery_recall`: whether the nearest of all other examples, by their embeddings, are of the same class.

Jégou, Douze and Schmid, "Product Quantization for Nearest Neighbor Search" (2011); with one split as queries and
gallery Oh Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding" (2016),
https://arxiv.org/abs/1511.06452.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import tensorflow as tf

from tapeworks import Evaluator, component

_BLOCK = 1024
"""Queries whose distances to the whole gallery are held at once."""


@component("gallery_recall")
class GalleryRecall(Evaluator):
    """Recall@k of embeddings: the share of examples that have one of their class among the k nearest others.

    Every example of the split is a query; the gallery is all the others, or the training split. The role's model gives
    embeddings `(n, d)` of the element's `x`; `y` holds class labels `(n,)` or `(n, 1)`, integers or strings. Queries
    without any example of their class in the gallery are left out. Equal distances rank in the order of the data.
    Distances are in float64 over the whole set at once, so the value does not depend on batches. Time grows with
    queries · gallery · d.

    Values: `gallery_recall_K` for each k.

    Args:
        k: how many of the nearest count; one or several.
        role: the model that embeds.
        distance: "cosine" (of normalised embeddings) or "euclidean".
        gallery: "self", or "training": the training split as its pipeline gives it.
    """

    def __init__(
        self,
        k: list[int] = [1],  # noqa: B006
        role: str = "model",
        distance: Literal["cosine", "euclidean"] = "cosine",
        gallery: Literal["self", "training"] = "self",
    ) -> None:
        if not k or min(k) < 1:
            raise ValueError(f"k must hold numbers of 1 or more, not {k}")
        self.directions = {f"gallery_recall_{one}": "max" for one in k}
        self.k, self.role, self.distance, self.gallery = list(k), role, distance, gallery
        self._embed: Any = None

    def evaluate(self, dataset: Any, run: Any) -> dict[str, float]:
        queries, labels = self._embedded(dataset, run)
        within = self.gallery == "self"
        gallery, gallery_labels = (queries, labels) if within else self._embedded(run.datasets["training"], run)
        highest = max(self.k)
        if highest > len(gallery) - within:
            raise ValueError(f"k is {highest}, and the gallery has only {len(gallery) - within} examples")
        found, known = np.zeros(len(self.k)), 0
        for start in range(0, len(queries), _BLOCK):
            block = slice(start, start + _BLOCK)
            distances = _distances(queries[block], gallery)
            same = labels[block, None] == gallery_labels[None, :]
            if within:
                own = np.arange(len(distances))
                distances[own, start + own] = np.inf
                same[own, start + own] = False
            answerable = same.any(axis=1)
            known += int(answerable.sum())
            nearest = np.argsort(distances, axis=1, kind="stable")[:, :highest]
            hits = np.take_along_axis(same, nearest, axis=1)
            found += [hits[:, :k].any(axis=1).sum() for k in self.k]
        shares = (found / max(known, 1)).tolist()
        return {f"gallery_recall_{k}": share for k, share in zip(self.k, shares, strict=True)}

    def _embedded(self, dataset: Any, run: Any) -> tuple[np.ndarray, np.ndarray]:
        if self._embed is None:
            model = run.models[self.role]
            self._embed = tf.function(lambda x: model(x, training=False), reduce_retracing=True)
        vectors, labels = [], []
        for batch in dataset:
            if not isinstance(batch, tuple) or len(batch) < 2:
                raise ValueError("gallery_recall needs elements (x, y), y the class labels")
            vectors.append(np.asarray(self._embed(batch[0])))
            labels.append(np.asarray(batch[1]).reshape(len(vectors[-1]), -1))
        embeddings, classes = np.concatenate(vectors).astype(np.float64), np.concatenate(labels)
        if embeddings.ndim != 2 or classes.shape[1] != 1:
            raise ValueError(
                f"gallery_recall needs embeddings (n, d) and one label each, not {embeddings.shape} and y of "
                f"{classes.shape[1]} values"
            )
        if self.distance == "cosine":
            embeddings /= np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
        return embeddings, classes[:, 0]


def _distances(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances `(queries, gallery)`; of unit vectors they rank as cosine distance does."""
    squares = (queries**2).sum(axis=1)[:, None] + (gallery**2).sum(axis=1)[None, :]
    return squares - 2.0 * queries @ gallery.T
