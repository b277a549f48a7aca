"""Cheap measures to follow a training run, not to judge its result.

They use only the training split, so that the test split remains for `evaluate`.
"""

from collections.abc import Callable, Mapping

import numpy as np

from cgan_jax.data import SPECS, Dataset
from cgan_jax.metrics.classification import confusion_matrix
from cgan_jax.metrics.evaluation import balanced
from cgan_jax.metrics.frechet import frechet_distance
from cgan_jax.metrics.manifold import manifold_measures
from cgan_jax.metrics.pixels import PixelFeatures
from cgan_jax.metrics.reference import N_TRAINING, load_reference

N_IMAGES = 2_000
CHOSEN_BY = "pixel_fd"
"""The best checkpoint has the lowest of this measure: the Frechet distance in 64 principal
components of the pixels (fewer for small data), without the reference classifier."""


def quick_measures(training: Dataset) -> Callable[[np.ndarray, np.ndarray], Mapping[str, float]]:
    """`QuickMeasures` of Fashion-MNIST, the reference classifier's data; otherwise `PixelMeasures`.

    Args:
        training: the training split.
    """
    spec = SPECS["fashion_mnist"]
    shape = (*spec.splits["train"].shape, 1)
    known = training.images.shape == shape and training.class_names == spec.class_names
    return QuickMeasures(training) if known else PixelMeasures(training)


class PixelMeasures:
    """Measures of fakes against training images, without a classifier: for any data.

    Args:
        training: the training split, of at least two images.
    """

    def __init__(self, training: Dataset) -> None:
        # Evenly spaced, since the data may be in the order of their classes.
        spread = np.linspace(0, len(training) - 1, min(len(training), N_IMAGES)).astype(int)
        n = min(64, training.images[0].size, len(spread) - 1)
        self._pixels = PixelFeatures.of(training.images[spread], n)
        rows = balanced(training.labels, N_IMAGES, len(training.class_names))
        self._coordinates = self._pixels(training.images[rows])

    def __call__(self, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Compute `pixel_fd`.

        Args:
            images: fakes, uint8 `[N, H, W, C]`; figures are comparable for N_IMAGES of them.
            labels: the requested classes, integers `[N]`.
        """
        return {CHOSEN_BY: frechet_distance(self._coordinates, self._pixels(images))}


class QuickMeasures:
    """Measures of fakes against the training images that the reference was not trained on.

    Args:
        training: the training split of Fashion-MNIST.

    Raises:
        DataError: the reference classifier cannot take its images.
    """

    def __init__(self, training: Dataset) -> None:
        self._n_classes = len(training.class_names)
        rows = N_TRAINING + balanced(training.labels[N_TRAINING:], N_IMAGES, self._n_classes)
        images = training.images[rows]
        self._reference = load_reference()
        self._features, _ = self._reference(images)
        self._pixels = PixelFeatures.of(training.images[:10_000])
        self._coordinates = self._pixels(images)

    def __call__(self, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Compute `gan_test`, `fcd` and `coverage` by the reference, and `pixel_fd` without it.

        Args:
            images: fakes, uint8 `[N, 28, 28, 1]`; figures are comparable for N_IMAGES of them.
            labels: the requested classes, integers `[N]`.
        """
        features, predictions = self._reference(images)
        return {
            "gan_test": confusion_matrix(labels, predictions, self._n_classes).accuracy,
            "fcd": frechet_distance(self._features, features),
            "coverage": manifold_measures(self._features, features).coverage,
            CHOSEN_BY: frechet_distance(self._coordinates, self._pixels(images)),
        }
