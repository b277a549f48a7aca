"""Features that no network has learned: coordinates along the principal components of the pixels.

The best checkpoint of a run is chosen by these, so that the reference classifier, which judges the
result, has no part in the choice.
"""

from dataclasses import dataclass

import numpy as np

from cgan_jax.errors import DataError
from cgan_jax.metrics.inputs import check_images


@dataclass(frozen=True, eq=False)
class PixelFeatures:
    """Principal components of pixels.

    Attributes:
        mean: float64 `[pixels]`, in [0, 1].
        components: float64 `[pixels, F]`, orthonormal, that of the largest variance first.
    """

    mean: np.ndarray
    components: np.ndarray

    @classmethod
    def of(cls, images: np.ndarray, n: int = 64) -> "PixelFeatures":
        """The first n principal components of images, uint8 `[N, H, W, C]`.

        Raises:
            DataError: other shapes or dtypes, or fewer than n images or pixels.
        """
        pixels = _pixels(images)
        if min(pixels.shape) < n:
            raise DataError(
                f"{len(pixels)} images of {pixels.shape[1]} pixels have no {n} components"
            )
        mean = pixels.mean(0)
        centred = pixels - mean
        if len(centred) < centred.shape[1]:  # then their Gram matrix is smaller than the covariance
            _, vectors = np.linalg.eigh(centred @ centred.T)
            components, _ = np.linalg.qr(centred.T @ vectors[:, : -n - 1 : -1])
            return cls(mean, components)
        _, vectors = np.linalg.eigh(centred.T @ centred)  # the largest last
        return cls(mean, vectors[:, : -n - 1 : -1])

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Coordinates of images, uint8 `[N, H, W, C]`, in units of the grey range: `[N, F]`."""
        return (_pixels(images) - self.mean) @ self.components


def _pixels(images: np.ndarray) -> np.ndarray:
    check_images(images)
    return images.reshape(len(images), -1) / 255
