"""The Frechet distance between two sets of features (Heusel et al. 2017)."""

import numpy as np

from cgan_jax.errors import DataError
from cgan_jax.metrics.features import checked_pair


def frechet_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Squared 2-Wasserstein distance between Gaussians fitted to both sets.

    `|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`, equation 6 of Heusel et al. 2017, "GANs Trained
    by a Two Time-Scale Update Rule". With Inception's pool features it is the FID. In float64; the
    trace of the root is that of `(C1^(1/2) C2 C1^(1/2))^(1/2)`, whose argument is symmetric, so
    that `eigh` gives real roots where a general matrix root gives complex rounding.

    Args:
        real: features `[N, F]`, at least two rows.
        fake: features `[M, F]`, at least two rows. The estimate is biased upwards, the more so the
            fewer the rows: compare distances of equal numbers only.

    Returns:
        the distance, at least 0.

    Raises:
        DataError: shapes that do not fit, or values that are not finite.
    """
    real, fake = checked_pair(real, fake, at_least=2)
    gap = real.mean(0) - fake.mean(0)
    real_cov, fake_cov = _covariance(real), _covariance(fake)
    root = _symmetric_root(real_cov)
    values = np.linalg.eigvalsh(root @ fake_cov @ root)
    trace_of_root = np.sqrt(np.clip(values, 0, None)).sum()
    distance = gap @ gap + np.trace(real_cov) + np.trace(fake_cov) - 2 * trace_of_root
    return max(0.0, float(distance))


def intra_frechet_distances(
    real: np.ndarray,
    real_labels: np.ndarray,
    fake: np.ndarray,
    fake_labels: np.ndarray,
    n_classes: int,
) -> np.ndarray:
    """The Frechet distance within each class (Miyato and Koyama 2018: intra FID).

    A generator that shows one class for another, or collapses within one, is found out here though
    the whole may look well. Each class has fewer rows, so these are larger than the whole's.

    Args:
        real: features `[N, F]`.
        real_labels: integers `[N]`.
        fake: features `[M, F]`.
        fake_labels: the classes asked for, integers `[M]`.
        n_classes: how many classes there are.

    Returns:
        float64 `[n_classes]`.

    Raises:
        DataError: as `frechet_distance`; also not a label for each row, or fewer than two of a
            class.
    """
    for features, labels in ((real, real_labels), (fake, fake_labels)):
        if np.shape(labels) != (len(features),):
            raise DataError(f"labels must be [{len(features)}], not {list(np.shape(labels))}")
    return np.array(
        [
            frechet_distance(real[real_labels == label], fake[fake_labels == label])
            for label in range(n_classes)
        ]
    )


def _covariance(features: np.ndarray) -> np.ndarray:
    """Unbiased, as in the published implementation."""
    centred = features - features.mean(0)
    return centred.T @ centred / (len(features) - 1)


def _symmetric_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
