"""Whether images differ from each other, and from the training images."""

from typing import NamedTuple

import numpy as np

from cgan_jax.metrics.inputs import check_images, check_labels, chunks

CHUNK = 500  # images at a time; against 60,000 of 784 pixels a block takes 120 MB
BLOCK = 2**26  # pixels of training images at a time, as floats 256 MB: all of Fashion-MNIST's


class Neighbours(NamedTuple):
    """The training image nearest to each image.

    Attributes:
        indices: of the training images, int64 `[N]`.
        distances: root mean square differences of pixels, float32 `[N]`, in grey levels 0..255.
    """

    indices: np.ndarray
    distances: np.ndarray


def nearest_neighbours(images: np.ndarray, training: np.ndarray) -> Neighbours:
    """Find each image's nearest training image, by pixels.

    Fakes that copy the training set lie nearer to it than real images outside it: compare the
    medians.

    Args:
        images: uint8 `[N, H, W, C]`.
        training: uint8 `[M, H, W, C]`.

    Raises:
        DataError: other shapes or dtypes.
    """
    check_images(images, training)
    indices = np.zeros(len(images), np.int64)
    distances = np.full(len(images), np.inf, np.float32)
    for block in chunks(len(training), max(1, BLOCK // training[0].size)):
        train = training[block].reshape(-1, training[0].size).astype(np.float32)
        squares = (train**2).sum(1)
        for rows in chunks(len(images), CHUNK):
            x = images[rows].reshape(-1, train.shape[1]).astype(np.float32)
            found = (squares - 2 * x @ train.T).argmin(1)
            # Recomputed from the differences, since the product form loses digits near zero.
            distance = np.sqrt(((x - train[found]) ** 2).mean(1))
            nearer = distance < distances[rows]
            indices[rows][nearer] = block.start + found[nearer]
            distances[rows][nearer] = distance[nearer]
    return Neighbours(indices, distances)


def within_class_diversity(images: np.ndarray, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Mean root mean square distance between two images of a class, in grey levels.

    Near zero if a generator has collapsed to one image per class; compare with real images.

    Args:
        images: uint8 `[N, H, W, C]`.
        labels: integers `[N]`.
        n_classes: number of classes.

    Returns:
        float64 `[n_classes]`; NaN for a class with fewer than two images.

    Raises:
        DataError: other shapes or dtypes.
    """
    check_images(images)
    check_labels(labels, len(images))
    diversity = np.full(n_classes, np.nan)
    for label in range(n_classes):
        x = images[labels == label].reshape(-1, images[0].size).astype(np.float64)
        if len(x) > 1:
            half = len(x) // 2  # image i is paired with image half + i, so that no image repeats
            diversity[label] = np.sqrt(((x[:half] - x[half : 2 * half]) ** 2).mean(1)).mean()
    return diversity
