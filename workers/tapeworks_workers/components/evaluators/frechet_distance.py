"""`frechet_distance`: how far generated examples lie from real ones.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium" (2017),
arXiv:1706.08500, section 2 and eq. 6; the distance itself is that of Dowson and Landau (1982).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks import Evaluator, Run, component
from tapeworks.bounds import Bound

Samples = Annotated[int, Bound(2, 10_000_000, "features of all samples are computed at every evaluation")]
Array = np.ndarray[Any, np.dtype[np.float64]]


@component("frechet_distance", example={"config": {"latent_dim": 8}})
class FrechetDistance(Evaluator):
    """`‖m - m'‖² + tr(C + C' - 2 (C C')^½)` for the means and covariances of real and of generated features.

    Real are the x of the split, generated what `role` makes of normal noise `(n, latent_dim)`, drawn from a seed of its
    own: the same noise at every evaluation. Features are the flattened examples, or what the model `features` (up to
    its layer `until`) gives for them. The distance falls with quality and with diversity; it depends on the features
    and a little on both sample sizes, so only values of one configuration compare. Computed in float64.

    Reports `frechet_distance`.

    Args:
        latent_dim: size of the noise.
        role: the model that generates.
        samples: how many examples it generates.
        seed: of the noise.
        features: a role whose outputs are compared; None: the examples themselves.
        until: the layer of `features`, a functional or sequential model, whose outputs are compared; None: its last.

    Raises ValueError where the split or `samples` holds fewer than two examples, or a shape or a layer does not fit.
    """

    def __init__(
        self,
        latent_dim: int,
        role: str = "generator",
        samples: Samples = 1000,
        seed: int = 0,
        features: str | None = None,
        until: str | None = None,
    ) -> None:
        if latent_dim < 1 or samples < 2:
            raise ValueError(f"latent_dim must be at least 1 and samples at least 2, not {latent_dim}, {samples}")
        if until is not None and features is None:
            raise ValueError(f"until names the layer {until!r} of a model, and features names no model")
        self.directions = {"frechet_distance": "min"}
        self.latent_dim = latent_dim
        self.role = role
        self.samples = samples
        self.seed = seed
        self.features = features
        self.until = until

    def evaluate(self, dataset: Any, run: Run) -> dict[str, float]:
        model = None if self.features is None else _until(run.models[self.features], self.until)
        real = moments(_flat(model, batch[0] if isinstance(batch, tuple) else batch) for batch in dataset)
        generator = run.models[self.role]
        noise = tf.random.stateless_normal(
            [self.samples, self.latent_dim], [self.seed, 0], dtype=keras.config.floatx(), alg="philox"
        )
        batches = (noise[start : start + 256] for start in range(0, self.samples, 256))
        fake = moments(_flat(model, generator(batch, training=False)) for batch in batches)
        if real[0].shape != fake[0].shape:
            raise ValueError(
                f"{self.role!r} gives {fake[0].size} numbers an example where the data's x has {real[0].size}"
            )
        return {"frechet_distance": frechet(*real, *fake)}


def moments(batches: Iterable[Array]) -> tuple[Array, Array]:
    """Mean `(d,)` and unbiased covariance `(d, d)` of all rows of the batches `(n, d)`, of which one is kept at a time.

    Merged by Chan et al. (1979): exact where the mean is large. Raises ValueError for fewer than two rows.
    """
    count, mean, scatter = 0, np.zeros(1), np.zeros((1, 1))
    for rows in batches:
        total, own = count + len(rows), rows.mean(axis=0)
        apart, centred = own - mean, rows - own
        scatter = scatter + centred.T @ centred + np.outer(apart, apart) * (count * len(rows) / total)
        mean = mean + apart * (len(rows) / total)
        count = total
    if count < 2:
        raise ValueError(f"a covariance needs two examples or more, there are {count}")
    return mean, scatter / (count - 1)


def frechet(mean: Array, covariance: Array, other_mean: Array, other_covariance: Array) -> float:
    """The squared Fréchet (2-Wasserstein) distance of two normal distributions."""
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
    # (C C')^½ has the eigenvalues of (C^½ C' C^½)^½, which is symmetric: no root of a general matrix is needed.
    shared = np.sqrt(np.clip(np.linalg.eigvalsh(root @ other_covariance @ root), 0.0, None)).sum()
    apart = mean - other_mean
    return float(apart @ apart + np.trace(covariance) + np.trace(other_covariance) - 2.0 * shared)


def _until(model: Any, layer: str | None) -> Any:
    if layer is None:
        return model
    if getattr(model, "inputs", None) is None:
        raise ValueError(f"until needs a functional or sequential model, not {type(model).__name__}")
    return keras.Model(model.inputs, model.get_layer(layer).output)


def _flat(model: Any, x: Any) -> Array:
    """One row of features an example, float64."""
    outputs = np.asarray(x if model is None else model(x, training=False), np.float64)
    return outputs.reshape(len(outputs), -1)
