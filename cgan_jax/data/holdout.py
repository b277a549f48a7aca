"""`hold_out`: set some images of each class aside, to judge a generator by what it has not seen."""

import hashlib
from dataclasses import replace

import numpy as np

from cgan_jax.checks import check_seed, short_repr
from cgan_jax.data.dataset import Dataset
from cgan_jax.data.mapped import choose_rows, is_on_disk
from cgan_jax.errors import ConfigError, DataError

DEFAULT_SHARE = 0.1
LEAST = 500  # images: of fewer, all train unless a share is asked for


def check_share(share: object) -> float:
    """A share of the images to hold out, as a float.

    Raises:
        ConfigError: not a number from 0 to below 1.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
        raise ConfigError(
            f"holdout must be a number from 0 to below 1, not {short_repr(share)}\n"
            f"Give the share of the pictures to hold out, such as {DEFAULT_SHARE}, or 0 for none."
        )
    return float(share)


def count_copies(images: Dataset, others: Dataset) -> int:
    """How many images of one data set are also in another, pixel by pixel."""
    known = {hashlib.sha256(image.tobytes()).digest() for image in others.images}
    return sum(hashlib.sha256(image.tobytes()).digest() in known for image in images.images)


def choose_held_out(
    dataset: Dataset, share: float = DEFAULT_SHARE, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the images that `hold_out` leaves to train on, and of those that it holds out.

    Returns:
        two arrays of integers, both ascending.

    Raises:
        ConfigError, DataError: as `hold_out`.
    """
    if not check_share(share):
        raise ConfigError("holdout must be above 0 to hold out something\nGive such as 0.1.")
    rng, held = np.random.default_rng(check_seed(seed)), np.zeros(len(dataset), bool)
    for label in range(len(dataset.class_names)):
        rows = rng.permutation(np.flatnonzero(dataset.labels == label))
        n_held = max(0, min(len(rows) - 1, max(1, round(share * len(rows)))))
        held[rows[:n_held]] = True
    if not held.any():
        raise DataError(
            f"{dataset.name}: no class has two images, so none can be held out\n"
            "expected a class with one to train on and one to hold out\n"
            "Add images, or hold out none."
        )
    return np.flatnonzero(~held), np.flatnonzero(held)


def hold_out(
    dataset: Dataset, share: float = DEFAULT_SHARE, seed: int = 0, *, in_place: bool = False
) -> tuple[Dataset, Dataset]:
    """Split a data set in two, class by class. The same arguments always give the same parts.

    Of each class, `share` of the images are held out, rounded: at least one, and never the last
    one that is left to train. A class with a single image keeps it for training.

    Args:
        dataset: the images.
        share: from above 0 to below 1.
        seed: in [0, 2**32), of the choice of the images.
        in_place: move the images to train on to the beginning of the memory of `dataset`, which
            must not be used afterwards, instead of copying them. Images on disk stay there.

    Returns:
        the images to train on, and those held out, both in the order of the data set and with all
        of its class names.

    Raises:
        ConfigError: `share` or `seed` is out of range.
        DataError: no class has two images.
    """
    kept, held = choose_held_out(dataset, share, seed)
    held_out = take_rows(dataset, held)
    if not in_place or is_on_disk(dataset.images):
        return take_rows(dataset, kept), held_out
    images = dataset.images
    for start in range(0, len(kept), 1000):  # no image moves backwards
        rows = kept[start : start + 1000]
        images[start : start + len(rows)] = images[rows]
    return replace(dataset, images=images[: len(kept)], labels=dataset.labels[kept]), held_out


def take_rows(dataset: Dataset, rows: np.ndarray) -> Dataset:
    """Some images: copies, or if they are many and on disk, their places there."""
    return replace(dataset, images=choose_rows(dataset.images, rows), labels=dataset.labels[rows])
