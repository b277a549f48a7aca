"""Cheap measures to follow a training run, not to judge its result.

They use only the training split, so that the test split remains for `evaluate`. The best
checkpoint is chosen by features that no network has learned, so that the reference classifier,
which judges the result, has no part in the choice.
"""

from collections.abc import Callable

import numpy as np

from cgan_jax.data import Dataset
from cgan_jax.errors import DataError
from cgan_jax.metrics.classification import confusion_matrix
from cgan_jax.metrics.frechet import frechet_distance
from cgan_jax.metrics.inputs import check_images
from cgan_jax.metrics.manifold import manifold_measures
from cgan_jax.metrics.reference import N_TRAINING, Reference, is_fashion_mnist, load_reference

N_IMAGES = 2_000
NEIGHBOUR = 5  # of an image of the training split: how far its neighbourhood reaches
CHOSEN_BY = "pixel_fd"
"""The best checkpoint has the lowest of this measure: the Frechet distance in 64 principal
components of the pixels (fewer for small data), without the reference classifier."""


def quick_measures(
    training: Dataset, reference: Reference | None = None
) -> Callable[[np.ndarray, np.ndarray], dict[str, float]]:
    """Prepare the measures of fakes against training images, of any data.

    Args:
        training: the training split, of at least two images.
        reference: a classifier for data other than Fashion-MNIST, which has its own; see
            `train_reference`. Its validation images are what features are compared with;
            without them only `pixel_fd` is computed.

    Returns:
        a function of fakes, uint8 `[N, H, W, C]`, and their requested classes, integers `[N]`,
        whose figures are comparable for N_IMAGES of them. It computes `pixel_fd` and, by the
        reference classifier against training images that it was not fitted to, `gan_test`, `fcd`
        and, where they suffice, `coverage` by as many fakes as real images.
    """
    known, n_classes = is_fashion_mnist(training), len(training.class_names)
    real = training.images[compared_rows(training)]
    # Evenly spaced, since unknown data may be in the order of their classes.
    basis = training.images[:10_000] if known else training.images[_spread(len(training))]
    pixels = principal_components(basis, min(64, basis[0].size, len(basis) - 1))
    real_pixels = pixels(real)

    def pixel_measures(images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        return {CHOSEN_BY: frechet_distance(real_pixels, pixels(images))}

    if known:
        reference, balanced, distinct = load_reference(), real, real
    elif reference and (unseen := reference.validation):
        balanced = unseen.images[evenly(unseen.labels, N_IMAGES, n_classes)]
        distinct = unseen.images[_spread(len(unseen))]
    else:
        return pixel_measures
    classify = reference
    real_features, neighbours = classify(balanced)[0], classify(distinct)[0]

    def measures(images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        features, predictions = classify(images)
        figures = {
            "gan_test": confusion_matrix(labels, predictions, n_classes).accuracy,
            "fcd": frechet_distance(real_features, features),
        }
        if len(neighbours) > NEIGHBOUR:
            drawn = np.random.default_rng(0).permutation(len(features))[: len(neighbours)]
            as_many = features[np.sort(drawn)]  # of whatever classes, in whatever order
            figures["coverage"] = manifold_measures(neighbours, as_many, k=NEIGHBOUR).coverage
        return figures | pixel_measures(images, labels)

    return measures


def compared_rows(training: Dataset) -> np.ndarray:
    """Indices of the training images that `quick_measures` compares fakes with.

    For Fashion-MNIST, they are among those that its reference classifier was not fitted to.
    """
    first = N_TRAINING if is_fashion_mnist(training) else 0
    return first + evenly(training.labels[first:], N_IMAGES, len(training.class_names))


def _spread(n: int) -> np.ndarray:
    """Indices of at most N_IMAGES of n images, evenly spaced."""
    return np.linspace(0, n - 1, min(n, N_IMAGES)).astype(int)


def evenly(labels: np.ndarray, n: int, n_classes: int) -> np.ndarray:
    """Indices of n / n_classes images of each class, class by class, as fakes are requested.

    Those are the first ones; a class with fewer has each of its images several times.
    """
    by_class = [np.flatnonzero(labels == label) for label in range(n_classes)]
    return np.concatenate(
        [np.resize(rows, max(1, n // n_classes)) for rows in by_class if len(rows)]
    )


def principal_components(images: np.ndarray, n: int = 64) -> Callable[[np.ndarray], np.ndarray]:
    """Find the first n principal components of images' pixels.

    Args:
        images: uint8 `[N, H, W, C]`.
        n: number of components, at most N and H * W * C.

    Returns:
        a function of such images that returns their coordinates, float64 `[N, n]`, in units of the
        grey range, those along the component of the largest variance first.

    Raises:
        DataError: other shapes or dtypes, or fewer than n images or pixels.
    """
    pixels = _pixels(images)
    if min(pixels.shape) < n:
        raise DataError(f"{len(pixels)} images of {pixels.shape[1]} pixels have no {n} components")
    mean = pixels.mean(0)
    centred = pixels - mean
    if len(centred) < centred.shape[1]:  # then their Gram matrix is smaller than the covariance
        _, vectors = np.linalg.eigh(centred @ centred.T)
        components, _ = np.linalg.qr(centred.T @ vectors[:, : -n - 1 : -1])
    else:
        _, vectors = np.linalg.eigh(centred.T @ centred)  # the largest last
        components = vectors[:, : -n - 1 : -1]
    return lambda images: (_pixels(images) - mean) @ components


def _pixels(images: np.ndarray) -> np.ndarray:
    check_images(images)
    return images.reshape(len(images), -1) / 255
