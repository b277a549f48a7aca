"""Fidelity and variety by nearest neighbours in feature space.

Kynkaanniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative Models";
Naeem et al. 2020, "Reliable Fidelity and Diversity Metrics for Generative Models".
"""

from typing import NamedTuple

import numpy as np

from cgan_jax.errors import ConfigError
from cgan_jax.metrics.features import checked_pair

CHUNK = 1000  # rows of a block of distances: 10,000 columns take 80 MB


class Manifold(NamedTuple):
    """All in [0, 1], but density, which may exceed 1.

    Attributes:
        precision: share of fakes within some real image's k-th neighbour distance (Kynkaanniemi).
        recall: share of real images within some fake's k-th neighbour distance (Kynkaanniemi).
        density: how many real images' neighbourhoods a fake lies in, over k (Naeem).
        coverage: share of real images whose neighbourhood holds a fake (Naeem).
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold_measures(real: np.ndarray, fake: np.ndarray, *, k: int = 5) -> Manifold:
    """Precision, recall, density and coverage.

    Args:
        real: features `[N, F]`, more than k rows.
        fake: features `[M, F]`, more than k rows.
        k: which neighbour's distance is the radius of a neighbourhood; a point is no neighbour of
            itself.

    Raises:
        ConfigError: k is below 1.
        DataError: shapes that do not fit, too few rows, or values that are not finite.
    """
    if k < 1:
        raise ConfigError(f"k must be at least 1, not {k}")
    real, fake = checked_pair(real, fake, at_least=k + 1)
    real_radii, fake_radii = _radii(real, k), _radii(fake, k)
    in_real = np.zeros(len(fake), int)  # how many real neighbourhoods each fake lies in
    recalled = np.zeros(len(real), bool)
    covered = np.zeros(len(real), bool)
    for start in range(0, len(real), CHUNK):
        rows = slice(start, start + CHUNK)
        distances = _squared_distances(real[rows], fake)
        inside = distances <= real_radii[rows, None]
        in_real += inside.sum(0)
        covered[rows] = inside.any(1)
        recalled[rows] = (distances <= fake_radii).any(1)
    return Manifold(
        precision=float((in_real > 0).mean()),
        recall=float(recalled.mean()),
        density=float(in_real.mean() / k),
        coverage=float(covered.mean()),
    )


def _radii(points: np.ndarray, k: int) -> np.ndarray:
    """The squared distance of each point to its k-th nearest other one."""
    radii = np.empty(len(points))
    for start in range(0, len(points), CHUNK):
        rows = slice(start, start + CHUNK)
        distances = _squared_distances(points[rows], points)
        # The point itself is nearest, at 0: so the k-th other one is at place k from 0.
        here = np.arange(start, start + len(distances))
        distances[np.arange(len(distances)), here] = -1
        radii[rows] = np.partition(distances, k, axis=1)[:, k]
    return radii


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """In float64, where `|x|^2 - 2 x.y + |y|^2` keeps enough digits. In place: blocks are large."""
    distances = x @ (-2 * y.T)
    distances += (x**2).sum(1)[:, None]
    distances += (y**2).sum(1)
    return np.maximum(distances, 0, out=distances)
