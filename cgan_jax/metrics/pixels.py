"""Features that no network has learned: coordinates along the principal components of the pixels.

The best checkpoint of a run is chosen by these, so that the reference classifier, which judges the
result, has no part in the choice.
"""

from collections.abc import Callable

import numpy as np

from cgan_jax.errors import DataError
from cgan_jax.metrics.inputs import check_images


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
