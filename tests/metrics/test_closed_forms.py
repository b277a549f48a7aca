"""Measures of sets with known values, and which defect each one shows."""

import numpy as np
import pytest

from cgan_jax.errors import DataError
from cgan_jax.metrics import (
    frechet_distance,
    intra_frechet_distances,
    kernel_distance,
    manifold_measures,
)
from cgan_jax.metrics.quick import principal_components

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_coverage_and_density_of_fakes_from_the_real_distribution(k):
    """Naeem et al. 2020, section 3.3: 1 - 2^-k and 1, for equal numbers of rows."""
    real, fake = RNG.standard_normal((2, 3000, 4))
    measures = manifold_measures(real, fake, k=k)
    assert measures.coverage == pytest.approx(1 - 2.0**-k, abs=0.025)
    assert measures.density == pytest.approx(1, abs=0.06)


def test_identical_sets():
    x = RNG.standard_normal((300, 4))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    measures = manifold_measures(x, x)
    assert (measures.precision, measures.recall, measures.coverage) == (1, 1, 1)
    assert kernel_distance(x, x, subsets=1, size=300)[0] < 0  # without the diagonal


@pytest.mark.parametrize("shift", [0.5, 3])
def test_frechet_distance_of_shifted_features(shift):
    x = RNG.standard_normal((300, 4))
    assert frechet_distance(x, x + shift) == pytest.approx(4 * shift**2, rel=1e-9)


def test_frechet_distance_of_scaled_features():
    """Missing or squared roots would give other values."""
    x = RNG.standard_normal((300, 4))
    expected = np.trace(np.cov(x, rowvar=False))  # (3 - 1)^2 / 4 of the sum of four variances
    assert frechet_distance(x - x.mean(0), 2 * (x - x.mean(0))) == pytest.approx(expected)


def test_kernel_distance_of_a_shifted_normal():
    """One feature, degree 3: E k(x, y) from the moments of N(0, 1) and N(m, 1), m = 1.

    E(1 + xy)^3 = 1 + 3 E(x) E(y) + 3 E(x^2) E(y^2) + E(x^3) E(y^3).
    """
    zero, one = (0, 1, 0), (1, 2, 4)
    kernel = lambda a, b: 1 + 3 * a[0] * b[0] + 3 * a[1] * b[1] + a[2] * b[2]  # noqa: E731
    expected = kernel(zero, zero) + kernel(one, one) - 2 * kernel(zero, one)
    x, y = RNG.standard_normal((20_000, 1)), RNG.standard_normal((20_000, 1)) + 1
    mean, deviation = kernel_distance(x, y, subsets=60, size=1000)
    assert mean == pytest.approx(expected, abs=4 * deviation / np.sqrt(60) + 0.5)


def modes(n, dropped=()):
    """Points of eight distant clusters without the dropped ones, and their labels."""
    clusters = np.array([mode for mode in range(8) if mode not in dropped])
    labels = clusters[np.arange(n) % len(clusters)]
    return 10 * np.eye(8)[labels] + RNG.standard_normal((n, 8)) * 0.3, labels


def test_dropped_modes_lower_recall_and_coverage_but_not_precision():
    real, _ = modes(1600)
    whole = manifold_measures(real, modes(1600)[0])
    dropped = manifold_measures(real, modes(1600, dropped=(1, 2, 3, 4))[0])
    assert dropped.precision > whole.precision - 0.03
    assert dropped.recall < 0.55 < 0.9 < whole.recall
    assert dropped.coverage < 0.55 < 0.9 < whole.coverage


def test_intra_frechet_distances_show_exchanged_classes():
    real, labels = modes(800)
    fake, requested = modes(800)
    honest = intra_frechet_distances(real, labels, fake, requested, 8)
    exchanged = np.where(requested < 2, 1 - requested, requested)
    distances = intra_frechet_distances(real, labels, fake, exchanged, 8)
    assert (honest < 0.1).all()
    np.testing.assert_allclose(distances[:2], 200, rtol=0.05)  # 10^2 in either direction
    np.testing.assert_array_equal(distances[2:], honest[2:])


def test_each_class_is_compared_with_itself():
    """And by the covariance of its own rows."""
    real, labels = modes(80)
    fake, requested = modes(160)
    distances = intra_frechet_distances(real, labels, fake, requested, 8)
    expected = [frechet_distance(real[labels == c], fake[requested == c]) for c in range(8)]
    np.testing.assert_allclose(distances, expected)
    with pytest.raises(DataError, match=r"labels must be \[80\], not \[79\]"):
        intra_frechet_distances(real, labels[:79], fake, requested, 8)


def test_pixel_features_preserve_distances():
    """All components together are a rotation; 0 and 255 are one unit apart, in uint8 too."""
    images = RNG.integers(0, 256, (50, 3, 3, 1), np.uint8)
    features = principal_components(images, n=9)
    coordinates = features(images)
    gaps = np.linalg.norm(coordinates[1:] - coordinates[:-1], axis=1)
    pixels = images.reshape(50, -1) / 255
    np.testing.assert_allclose(gaps, np.linalg.norm(pixels[1:] - pixels[:-1], axis=1))
    assert (np.diff(coordinates.var(0)) <= 1e-12).all()  # the largest first
    black, white = features(np.stack([np.zeros((3, 3, 1), "u1"), np.full((3, 3, 1), 255, "u1")]))
    assert np.linalg.norm(black - white) == pytest.approx(3)


def test_pixel_features_of_few_large_images_match_the_full_covariance():
    images = RNG.integers(0, 256, (30, 8, 8, 3), np.uint8)  # 192 pixels
    pixels = images.reshape(30, -1) / 255
    _, vectors = np.linalg.eigh(np.cov(pixels.T))
    expected = (pixels - pixels.mean(0)) @ vectors[:, :-6:-1]
    np.testing.assert_allclose(np.abs(principal_components(images, n=5)(images)), np.abs(expected))


def test_pixel_features_refuse_other_arrays():
    images = RNG.integers(0, 256, (50, 3, 3, 1), np.uint8)
    with pytest.raises(DataError, match="9 pixels have no 64"):
        principal_components(images)
    with pytest.raises(DataError, match="must be uint8"):
        principal_components(images / 255, n=4)
