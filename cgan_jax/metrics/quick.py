"""A few measures on few images, often: for the course of a training run, not for its result.

They see the training split only, so that the test split stays for `evaluate`.
"""

import numpy as np

from cgan_jax.data import Dataset
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


class QuickMeasures:
    """Measures of fakes beside training images: those that the reference was not trained on.

    Args:
        training: the training split.

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
