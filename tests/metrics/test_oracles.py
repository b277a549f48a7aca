"""Measures against independent implementations, which the extra `dev` installs."""

import numpy as np
import pytest
import torch
from prdc import compute_prdc
from scipy.linalg import sqrtm
from sklearn.decomposition import PCA
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from cgan_jax.metrics import (
    confusion_matrix,
    frechet_distance,
    kernel_distance,
    manifold_measures,
    nearest_neighbours,
)
from cgan_jax.metrics.quick import principal_components

pytestmark = [pytest.mark.slow, pytest.mark.torch]
RNG = np.random.default_rng(0)
MIXING = RNG.standard_normal((16, 16))
REAL = np.maximum(RNG.standard_normal((600, 16)) @ MIXING, 0)
FAKE = np.maximum(RNG.standard_normal((500, 16)) @ MIXING * 0.8 + 0.5, 0)


class Identity(torch.nn.Module):
    """Uses features as images."""

    num_features = 16

    def forward(self, x):
        return x


def test_frechet_distance_matches_scipys_matrix_root():
    one, other = np.cov(REAL, rowvar=False), np.cov(FAKE, rowvar=False)
    gap = REAL.mean(0) - FAKE.mean(0)
    expected = gap @ gap + np.trace(one + other - 2 * sqrtm(one @ other).real)
    assert frechet_distance(REAL, FAKE) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_matches_torchmetrics():
    fid = FrechetInceptionDistance(Identity(), input_img_size=(16,)).set_dtype(torch.float64)
    fid.update(torch.from_numpy(REAL), real=True)
    fid.update(torch.from_numpy(FAKE), real=False)
    assert frechet_distance(REAL, FAKE) == pytest.approx(float(fid.compute()), rel=1e-6)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save all")
def test_kernel_distance_matches_torchmetrics():
    """On whole sets, so that neither draws subsets."""
    real = REAL[:500]
    kid = KernelInceptionDistance(Identity(), subsets=1, subset_size=500)
    kid.update(torch.from_numpy(real), real=True)
    kid.update(torch.from_numpy(FAKE), real=False)
    mean, _ = kernel_distance(real, FAKE, subsets=1, size=500)
    assert mean == pytest.approx(float(kid.compute()[0]), rel=1e-5)


def test_kernel_distance_matches_scikit_learns_kernel_without_the_diagonal():
    real, n = REAL[:500], 500
    xx, yy, xy = (polynomial_kernel(*pair) for pair in ((real, real), (FAKE, FAKE), (real, FAKE)))
    within = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (n * (n - 1))
    mean, _ = kernel_distance(real, FAKE, subsets=1, size=n)
    assert mean == pytest.approx(within - 2 * xy.mean(), rel=1e-9)


@pytest.mark.parametrize("k", [1, 5])
def test_manifold_measures_match_prdc(k, capsys):
    expected = compute_prdc(REAL, FAKE, nearest_k=k)
    assert manifold_measures(REAL, FAKE, k=k)._asdict() == pytest.approx(expected)


def test_confusion_matrix_matches_scikit_learn():
    labels, predictions = RNG.integers(0, 10, (2, 300))
    matrix = confusion_matrix(labels, predictions, 10)
    np.testing.assert_array_equal(matrix.counts, sklearn_confusion(labels, predictions))


def test_nearest_neighbours_match_scikit_learn():
    images, training = (RNG.integers(0, 256, (n, 6, 6, 1), np.uint8) for n in (40, 300))
    neighbours = nearest_neighbours(images, training)
    search = NearestNeighbors(n_neighbors=1).fit(training.reshape(300, -1).astype(float))
    distances, indices = search.kneighbors(images.reshape(40, -1).astype(float))
    np.testing.assert_array_equal(neighbours.indices, indices[:, 0])
    np.testing.assert_allclose(neighbours.distances, distances[:, 0] / 6, rtol=1e-5)


def test_principal_components_match_scikit_learn():
    """Up to their signs."""
    images = RNG.integers(0, 256, (200, 4, 4, 1), np.uint8)
    ours = principal_components(images, n=5)(images)
    theirs = PCA(5, svd_solver="full").fit_transform(images.reshape(200, -1) / 255)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-9)
