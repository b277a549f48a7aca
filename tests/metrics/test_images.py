"""Measures on images and labels."""

import numpy as np
import pytest

from cgan_jax.errors import DataError
from cgan_jax.metrics import confusion_matrix, nearest_neighbours, within_class_diversity

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (30, 4, 4, 1), np.uint8)


def test_confusion_matrix_has_one_row_per_requested_class():
    matrix = confusion_matrix(np.array([0, 0, 1, 1, 1]), np.array([0, 2, 1, 1, 0]), 4)
    assert matrix.counts.tolist() == [[1, 0, 1, 0], [1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert matrix.accuracy == pytest.approx(3 / 5)
    np.testing.assert_allclose(matrix.per_class, [1 / 2, 2 / 3, np.nan, np.nan])


@pytest.mark.parametrize(
    ("labels", "predictions"),
    [([0, 1], [0]), ([[0]], [[0]]), ([], []), ([0, 4], [0, 1]), ([-1], [0]), ([0.5], [0])],
)
def test_wrong_labels_are_refused(labels, predictions):
    with pytest.raises(DataError, match="labels must be"):
        confusion_matrix(np.array(labels), np.array(predictions), 4)


def test_nearest_distances_match_an_exhaustive_search(monkeypatch):
    monkeypatch.setattr("cgan_jax.metrics.diversity.CHUNK", 4)
    monkeypatch.setattr("cgan_jax.metrics.diversity.BLOCK", 7 * 16)
    images = RNG.integers(0, 256, (11, 4, 4, 1), np.uint8)
    gaps = images[:, None].astype(float) - IMAGES[None].astype(float)
    expected = np.sqrt((gaps**2).mean((2, 3, 4))).min(1)
    result = nearest_neighbours(images, IMAGES)
    np.testing.assert_allclose(result.distances, expected, rtol=1e-5)
    np.testing.assert_array_equal(result.indices, (gaps**2).mean((2, 3, 4)).argmin(1))


def test_distances_of_copies_and_of_black_to_white():
    """0 - 255 would be 1 in uint8 arithmetic."""
    np.testing.assert_array_equal(nearest_neighbours(IMAGES, IMAGES).distances, 0)
    black, white = np.zeros((1, 4, 4, 1), np.uint8), np.full((1, 4, 4, 1), 255, np.uint8)
    assert nearest_neighbours(black, white).distances == 255
    both = np.concatenate([black, white])
    assert within_class_diversity(both, np.zeros(2, int), 1) == 255


def test_diversity_is_within_classes():
    """Two classes of one image each differ from each other, but not within a class."""
    labels = np.arange(30) % 2
    collapsed = IMAGES[labels]
    np.testing.assert_array_equal(within_class_diversity(collapsed, labels, 3), [0, 0, np.nan])
    varied = within_class_diversity(IMAGES, labels, 2)
    assert (varied > 80).all()


def test_other_arrays_are_refused():
    for bad in (IMAGES.astype(float), IMAGES[0], IMAGES[:0]):
        with pytest.raises(DataError, match=r"images must be uint8 \[N, H, W, C\]"):
            nearest_neighbours(bad, IMAGES)
    with pytest.raises(DataError, match="one shape"):
        nearest_neighbours(IMAGES, IMAGES[:, :3])
    with pytest.raises(DataError, match="labels must be"):
        within_class_diversity(IMAGES, np.zeros(3, int), 2)
