"""Features that no network has learned: an image's coordinates along the data's main directions.

What a checkpoint is chosen by while training is taken on these, so that the reference classifier
judges the result and had no say in it.
"""

from dataclasses import dataclass

import numpy as np

from cgan_jax.errors import DataError


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
        """The first n principal components of some images, uint8 `[N, H, W, C]`.

        Raises:
            DataError: they are not, or have fewer pixels than n, or are fewer.
        """
        pixels = _pixels(images)
        if min(pixels.shape) < n:
            raise DataError(
                f"{len(pixels)} images of {pixels.shape[1]} pixels have no {n} components"
            )
        mean = pixels.mean(0)
        centred = pixels - mean
        if len(centred) < centred.shape[1]:  # then the matrix of their products is the smaller one
            _, vectors = np.linalg.eigh(centred @ centred.T)
            components, _ = np.linalg.qr(centred.T @ vectors[:, : -n - 1 : -1])
            return cls(mean, components)
        _, vectors = np.linalg.eigh(centred.T @ centred)  # the largest last
        return cls(mean, vectors[:, : -n - 1 : -1])

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Coordinates of images, uint8 `[N, H, W, C]`, in units of the grey range: `[N, F]`."""
        return (_pixels(images) - self.mean) @ self.components


def _pixels(images: np.ndarray) -> np.ndarray:
    if images.dtype != np.uint8 or images.ndim != 4:
        raise DataError(f"images must be uint8 [N, H, W, C], not {images.dtype} {images.shape}")
    return images.reshape(len(images), -1) / 255
