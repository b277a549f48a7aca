"""Checks of the arrays that measures take, and the chunks in which they process long ones."""

from collections.abc import Iterator

import numpy as np

from cgan_jax.errors import DataError


def chunks(n: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` rows that together cover n rows."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def check_images(*arrays: np.ndarray) -> None:
    """Check arrays of images against each other.

    Raises:
        DataError: one is not uint8 `[N, H, W, C]`, or is empty, or their images differ in shape.
    """
    for images in arrays:
        if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
            raise DataError(
                f"images must be uint8 [N, H, W, C], not {images.dtype} {list(images.shape)}"
            )
    shapes = [list(images.shape[1:]) for images in arrays]
    if shapes[0] != shapes[-1]:
        raise DataError(f"images must have one shape, not {shapes[0]} and {shapes[-1]}")


def check_labels(labels: np.ndarray, n: int) -> None:
    """Raises DataError unless there is one label for each of n rows."""
    if np.shape(labels) != (n,):
        raise DataError(f"labels must be [{n}], not {list(np.shape(labels))}")


def check_features(real: np.ndarray, fake: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of features as float64 `[N, F]` and `[M, F]`.

    Raises:
        DataError: one is not an array of numbers `[N, F]`, is not finite or has fewer than `least`
            rows, or their widths differ.
    """
    for name, features in (("real", real), ("fake", fake)):
        array = np.asarray(features)
        if array.ndim != 2 or array.dtype.kind not in "fiu" or len(array) < least:
            raise DataError(
                f"{name} features are {array.dtype} {list(array.shape)}\n"
                f"expected numbers [N, F] with at least {least} rows\nGive one row per image."
            )
        if not np.isfinite(array).all():
            raise DataError(f"{name} features must be finite, but some are NaN or infinite")
    real, fake = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    if real.shape[1] != fake.shape[1]:
        raise DataError(
            f"real features have {real.shape[1]} columns, fake ones {fake.shape[1]}\n"
            "expected equal numbers\nTake both from the same network."
        )
    return real, fake
