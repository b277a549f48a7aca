"""Cheap measures to follow a training run, not to judge its result.

They use only the training split, so that the test split remains for `evaluate`.
"""

from collections.abc import Callable

import numpy as np

from cgan_jax.data import SPECS, Dataset
from cgan_jax.metrics.classification import confusion_matrix
from cgan_jax.metrics.evaluation import balanced
from cgan_jax.metrics.frechet import frechet_distance
from cgan_jax.metrics.manifold import manifold_measures
from cgan_jax.metrics.pixels import principal_components
from cgan_jax.metrics.reference import N_TRAINING, load_reference

N_IMAGES = 2_000
CHOSEN_BY = "pixel_fd"
"""The best checkpoint has the lowest of this measure: the Frechet distance in 64 principal
components of the pixels (fewer for small data), without the reference classifier."""


def quick_measures(training: Dataset) -> Callable[[np.ndarray, np.ndarray], dict[str, float]]:
    """Prepare the measures of fakes against training images, of any data.

    Args:
        training: the training split, of at least two images.

    Returns:
        a function of fakes, uint8 `[N, H, W, C]`, and their requested classes, integers `[N]`,
        whose figures are comparable for N_IMAGES of them. It computes `pixel_fd` and, for
        Fashion-MNIST, `gan_test`, `fcd` and `coverage` by the reference classifier against
        training images that it was not trained on.
    """
    spec, n_classes = SPECS["fashion_mnist"], len(training.class_names)
    shape = (*spec.splits["train"].shape, 1)
    known = training.images.shape == shape and training.class_names == spec.class_names
    first = N_TRAINING if known else 0
    real = training.images[first + balanced(training.labels[first:], N_IMAGES, n_classes)]
    # Evenly spaced, since unknown data may be in the order of their classes.
    spread = np.linspace(0, len(training) - 1, min(len(training), N_IMAGES)).astype(int)
    basis = training.images[:10_000] if known else training.images[spread]
    pixels = principal_components(basis, min(64, basis[0].size, len(basis) - 1))
    real_pixels = pixels(real)

    def pixel_measures(images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        return {CHOSEN_BY: frechet_distance(real_pixels, pixels(images))}

    if not known:
        return pixel_measures
    reference = load_reference()
    real_features, _ = reference(real)

    def measures(images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        features, predictions = reference(images)
        return {
            "gan_test": confusion_matrix(labels, predictions, n_classes).accuracy,
            "fcd": frechet_distance(real_features, features),
            "coverage": manifold_measures(real_features, features).coverage,
        } | pixel_measures(images, labels)

    return measures
