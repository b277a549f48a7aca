"""Whether images are classified as the requested class (Shmelkov et al. 2018: GAN-test)."""

from typing import NamedTuple

import numpy as np

from cgan_jax.errors import DataError


class ConfusionMatrix(NamedTuple):
    """Counts `[classes, classes]`: one row per requested class, one column per predicted class."""

    counts: np.ndarray

    @property
    def accuracy(self) -> float:
        """Share of images that are classified as requested."""
        return float(np.trace(self.counts) / self.counts.sum())

    @property
    def per_class(self) -> np.ndarray:
        """The same for each requested class, float64 `[classes]`; NaN for one without images."""
        n = self.counts.sum(1)
        return np.divide(np.diag(self.counts), n, out=np.full(len(n), np.nan), where=n > 0)


def confusion_matrix(
    labels: np.ndarray, predictions: np.ndarray, n_classes: int
) -> ConfusionMatrix:
    """Count which class each image is classified as.

    With a classifier trained on real images, the accuracy on generated ones is the GAN-test of
    Shmelkov et al. 2018, "How good is my GAN?". It measures fidelity.

    Args:
        labels: requested or true classes, integers `[N]` in [0, n_classes).
        predictions: a classifier's, likewise.
        n_classes: number of classes.

    Raises:
        DataError: labels of other shapes, out of range, or empty.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.shape != predictions.shape or labels.ndim != 1 or not labels.size:
        raise DataError(
            f"labels must be two vectors of one length, not {list(labels.shape)} and "
            f"{list(predictions.shape)}"
        )
    for ids in (labels, predictions):
        if ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= n_classes:
            raise DataError(f"labels must be integers in 0..{n_classes - 1}")
    counts = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(counts, (labels, predictions), 1)
    return ConfusionMatrix(counts)
