"""The Frechet distance between two sets of features (Heusel et al. 2017)."""

import numpy as np

from cgan_jax.metrics.inputs import check_features, check_labels


def frechet_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Squared 2-Wasserstein distance between Gaussians fitted to both sets.

    `|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`, equation 6 of Heusel et al. 2017, "GANs Trained
    by a Two Time-Scale Update Rule". With Inception's pool features it is the FID. In float64; the
    trace of the root is that of `(C1^(1/2) C2 C1^(1/2))^(1/2)`, whose argument is symmetric, so
    `eigh` gives real roots, while a general matrix root has complex rounding errors.

    Args:
        real: features `[N, F]`, at least two rows.
        fake: features `[M, F]`, at least two rows. The estimate is biased upwards, more with fewer
            rows: compare only distances of equally many.

    Returns:
        the distance, at least 0.

    Raises:
        DataError: shapes that do not fit, or values that are not finite.
    """
    real, fake = check_features(real, fake, least=2)
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

    These show a generator that confuses classes, or collapses within one, even if the images as a
    whole look good. Each class has fewer rows, so these are larger than the overall distance.

    Args:
        real: features `[N, F]`.
        real_labels: integers `[N]`.
        fake: features `[M, F]`.
        fake_labels: the requested classes, integers `[M]`.
        n_classes: number of classes.

    Returns:
        float64 `[n_classes]`; NaN for a class with fewer than two rows in either set.

    Raises:
        DataError: as `frechet_distance`; also not one label per row.
    """
    check_labels(real_labels, len(real))
    check_labels(fake_labels, len(fake))
    pairs = [(real[real_labels == c], fake[fake_labels == c]) for c in range(n_classes)]
    return np.array(
        [frechet_distance(*pair) if min(map(len, pair)) > 1 else np.nan for pair in pairs]
    )


def _covariance(features: np.ndarray) -> np.ndarray:
    """Unbiased, as in the published implementation."""
    centred = features - features.mean(0)
    return centred.T @ centred / (len(features) - 1)


def _symmetric_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
