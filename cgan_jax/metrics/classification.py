"""Whether images are taken for the class that was asked for (Shmelkov et al. 2018: GAN-test)."""

from typing import NamedTuple

import numpy as np

from cgan_jax.errors import DataError


class ConfusionMatrix(NamedTuple):
    """Counts `[classes, classes]`: a row the class asked for, a column the class seen."""

    counts: np.ndarray

    @property
    def accuracy(self) -> float:
        """Share of images that were taken for the class asked for."""
        return float(np.trace(self.counts) / self.counts.sum())

    @property
    def per_class(self) -> np.ndarray:
        """The same for each class asked for, float64 `[classes]`; NaN for one never asked for."""
        asked = self.counts.sum(1)
        return np.divide(
            np.diag(self.counts), asked, out=np.full(len(asked), np.nan), where=asked > 0
        )


def confusion_matrix(asked: np.ndarray, seen: np.ndarray, n_classes: int) -> ConfusionMatrix:
    """Count which class each image was taken for.

    Shmelkov et al. 2018, "How good is my GAN?": with a classifier trained on real images, the
    accuracy on generated ones is the GAN-test, which tells of their fidelity.

    Args:
        asked: labels in [0, n_classes), integers `[N]`.
        seen: a classifier's, likewise.
        n_classes: how many classes there are.

    Raises:
        DataError: labels of other shapes, or out of range, or none.
    """
    asked, seen = np.asarray(asked), np.asarray(seen)
    if asked.shape != seen.shape or asked.ndim != 1 or not asked.size:
        raise DataError(
            f"labels must be two vectors of one length, not {list(asked.shape)} and "
            f"{list(seen.shape)}"
        )
    for labels in (asked, seen):
        if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= n_classes:
            raise DataError(f"labels must be integers in 0..{n_classes - 1}")
    counts = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(counts, (asked, seen), 1)
    return ConfusionMatrix(counts)
