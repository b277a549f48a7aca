"""A few measures on few images, often: for the course of a training run, not for its result.

They see the training split only, so that the test split stays for `evaluate`.
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
"""The measure, the lower the better, by which the best checkpoint is kept. It is the Frechet
distance in 64 principal components of the pixels, where the reference classifier has no say."""


def quick_measures(training: Dataset) -> Callable[[np.ndarray, np.ndarray], Mapping[str, float]]:
    """`QuickMeasures` of Fashion-MNIST, which the reference classifier knows; else `PixelMeasures`.

    Args:
        training: the training split.
    """
    known = SPECS["fashion_mnist"]
    shape = (*known.splits["train"].shape, 1)
    same = training.images.shape == shape and training.class_names == known.class_names
    return QuickMeasures(training) if same else PixelMeasures(training)


class PixelMeasures:
    """Measures of fakes beside training images that need no classifier: for any data.

    Args:
        training: the training split, of at least two images.
    """

    def __init__(self, training: Dataset) -> None:
        # All over the data, since they may be in the order of their classes.
        some = np.linspace(0, len(training) - 1, min(len(training), N_IMAGES)).astype(int)
        pixels = training.images[0].size
        self._pixels = PixelFeatures.of(training.images[some], min(64, pixels, len(some) - 1))
        rows = balanced(training.labels, N_IMAGES, len(training.class_names))
        self._coordinates = self._pixels(training.images[rows])

    def __call__(self, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """`pixel_fd`.

        Args:
            images: fakes, uint8 `[N, H, W, C]`; N_IMAGES of them, for comparable figures.
            labels: the classes asked for, integers `[N]`.
        """
        return {CHOSEN_BY: frechet_distance(self._coordinates, self._pixels(images))}


class QuickMeasures:
    """Measures of fakes beside training images: those that the reference was not trained on.

    Args:
        training: the training split of Fashion-MNIST.

    Raises:
        DataError: its images are none that the reference classifier takes.
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
        """`gan_test`, `fcd` and `coverage` by the reference, and `pixel_fd` without it.

        Args:
            images: fakes, uint8 `[N, 28, 28, 1]`; N_IMAGES of them, for comparable figures.
            labels: the classes asked for, integers `[N]`.
        """
        features, seen = self._reference(images)
        return {
            "gan_test": confusion_matrix(labels, seen, self._n_classes).accuracy,
            "fcd": frechet_distance(self._features, features),
            "coverage": manifold_measures(self._features, features).coverage,
            CHOSEN_BY: frechet_distance(self._coordinates, self._pixels(images)),
        }
