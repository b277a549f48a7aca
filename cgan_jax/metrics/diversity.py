"""Whether images differ from each other, and from those that were trained on."""

from typing import NamedTuple

import numpy as np

from cgan_jax.errors import DataError

CHUNK = 500  # images at a time; against 60,000 of 784 pixels a block takes 120 MB


class Neighbours(NamedTuple):
    """The training image nearest to each image.

    Attributes:
        indices: of the training images, int64 `[N]`.
        distances: root mean square differences of pixels, float32 `[N]`, in grey levels 0..255.
    """

    indices: np.ndarray
    distances: np.ndarray


def nearest_neighbours(images: np.ndarray, training: np.ndarray) -> Neighbours:
    """Each image's nearest training image, by pixels.

    Fakes that copy the training set lie nearer to it than real images that were not trained on:
    compare the medians.

    Args:
        images: uint8 `[N, H, W, C]`.
        training: uint8 `[M, H, W, C]`.

    Raises:
        DataError: other shapes or dtypes.
    """
    _check_images(images, training)
    train = training.reshape(len(training), -1).astype(np.float32)
    squares = (train**2).sum(1)
    indices, distances = np.empty(len(images), np.int64), np.empty(len(images), np.float32)
    for start in range(0, len(images), CHUNK):
        rows = slice(start, start + CHUNK)
        x = images[rows].reshape(-1, train.shape[1]).astype(np.float32)
        indices[rows] = (squares - 2 * x @ train.T).argmin(1)
        # Once more from the differences, since the product form loses digits near zero.
        distances[rows] = np.sqrt(((x - train[indices[rows]]) ** 2).mean(1))
    return Neighbours(indices, distances)


def within_class_diversity(images: np.ndarray, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Mean root mean square distance between two images of a class, in grey levels.

    Near zero where a generator has collapsed to one picture a class; compare with real images.

    Args:
        images: uint8 `[N, H, W, C]`.
        labels: integers `[N]`.
        n_classes: how many classes there are.

    Returns:
        float64 `[n_classes]`; NaN for a class with fewer than two images.

    Raises:
        DataError: other shapes or dtypes.
    """
    _check_images(images, images)
    if np.shape(labels) != (len(images),):
        raise DataError(f"labels must be [{len(images)}], not {list(np.shape(labels))}")
    found = np.full(n_classes, np.nan)
    for label in range(n_classes):
        x = images[labels == label].reshape(-1, images[0].size).astype(np.float64)
        if len(x) > 1:
            half = len(x) // 2  # pairs of strangers: the order of generated images means nothing
            found[label] = np.sqrt(((x[:half] - x[half : 2 * half]) ** 2).mean(1)).mean()
    return found


def _check_images(images: np.ndarray, others: np.ndarray) -> None:
    for array in (images, others):
        if array.dtype != np.uint8 or array.ndim != 4 or not len(array):
            raise DataError(
                f"images must be uint8 [N, H, W, C], not {array.dtype} {list(array.shape)}"
            )
    if images.shape[1:] != others.shape[1:]:
        raise DataError(
            f"images must have one shape, not {list(images.shape[1:])} and {list(others.shape[1:])}"
        )
