"""Fidelity and variety by nearest neighbours in feature space.

Kynkaanniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative Models";
Naeem et al. 2020, "Reliable Fidelity and Diversity Metrics for Generative Models".
"""

from typing import NamedTuple

import numpy as np

from cgan_jax.errors import ConfigError
from cgan_jax.metrics.inputs import check_features, chunks

CHUNK = 1000  # rows of a block of distances: 10,000 columns take 80 MB


class Manifold(NamedTuple):
    """All are in [0, 1] except density, which may exceed 1.

    Attributes:
        precision: share of fakes within any real image's k-th neighbour distance (Kynkaanniemi).
        recall: share of real images within any fake's k-th neighbour distance (Kynkaanniemi).
        density: number of real neighbourhoods that a fake lies in, divided by k (Naeem).
        coverage: share of real images whose neighbourhood contains a fake (Naeem).
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
        k: the radius of a neighbourhood is the distance to the k-th neighbour; a point is not a
            neighbour of itself.

    Raises:
        ConfigError: k is below 1.
        DataError: shapes that do not fit, too few rows, or values that are not finite.
    """
    if k < 1:
        raise ConfigError(f"k must be at least 1, not {k}")
    real, fake = check_features(real, fake, least=k + 1)
    real_radii, fake_radii = _radii(real, k), _radii(fake, k)
    in_real = np.zeros(len(fake), int)  # the number of real neighbourhoods that each fake lies in
    recalled, covered = np.zeros((2, len(real)), bool)
    for rows in chunks(len(real), CHUNK):
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
    for rows in chunks(len(points), CHUNK):
        distances = _squared_distances(points[rows], points)
        # A point is its own nearest, whatever the rounding, so the k-th other one has index k.
        np.fill_diagonal(distances[:, rows], -1)
        radii[rows] = np.partition(distances, k, axis=1)[:, k]
    return radii


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """By `|x|^2 - 2 x.y + |y|^2`, which needs float64. In place, since blocks are large."""
    distances = x @ (-2 * y.T)
    distances += (x**2).sum(1)[:, None]
    distances += (y**2).sum(1)
    return np.maximum(distances, 0, out=distances)
