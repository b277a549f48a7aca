"""Checks that all measures on features share."""

import numpy as np

from cgan_jax.errors import DataError


def checked(name: str, features: np.ndarray, at_least: int) -> np.ndarray:
    """Features as a finite float64 `[N, F]` array of at least so many rows.

    Raises:
        DataError: they are not.
    """
    array = np.asarray(features)
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise DataError(
            f"{name} must be numbers [N, F], not {array.dtype} {list(array.shape)}.\n"
            "Give one row an image."
        )
    if len(array) < at_least:
        raise DataError(f"{name} must have at least {at_least} rows, not {len(array)}")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise DataError(f"{name} must be finite: some are NaN or infinite")
    return array


def checked_pair(
    real: np.ndarray, fake: np.ndarray, at_least: int
) -> tuple[np.ndarray, np.ndarray]:
    """Both sets checked, and of one width."""
    real, fake = checked("real features", real, at_least), checked("fake features", fake, at_least)
    if real.shape[1] != fake.shape[1]:
        raise DataError(
            f"real features have {real.shape[1]} columns, fake ones {fake.shape[1]}: they must be "
            "of one network"
        )
    return real, fake
