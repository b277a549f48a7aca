"""Dataset: a complete labelled image set in memory, checked once when it is created.

The other modules of this package read images from their sources.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias

import numpy as np

from cgan_jax.checks import (
    check_class_names,
    check_encodable,
    errors_as,
    one_line,
    plural,
    short_repr,
)
from cgan_jax.data.mapped import MappedRows
from cgan_jax.errors import DataError

_ROWS_AT_ONCE = 2**13
Fill: TypeAlias = Literal["white", "black"] | None
"""What transparent pixels of pictures become; None if there are none."""

Placement: TypeAlias = Literal["auto", "device", "host"]
"""Where the images are kept that are trained on; see `cgan_jax.data.sources.DatasetSource`."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images as arrays. Two objects are equal only if they are the same object.

    Args:
        images: uint8 [N, H, W, C], N, H, W and C at least 1, pixel values 0 to 255; an array in
            memory or memory-mapped.
        labels: int32 [N], 0 <= label < len(class_names); or vectors, float32 [N, K], as of
            attributes, for networks of your own (a generator with `condition_dim`).
        class_names: one name per class, at least one, of one line each; a label is its index. With
            vectors, one name per column.
        name: the name of the data set, such as "fashion_mnist".
        source: one line that says where the arrays were read from.
        background: what transparent pixels of the pictures become; None if none are transparent
            and none was asked for, or for arrays.

    Raises:
        DataError: an array has another shape, dtype or range, or a name is not valid Unicode.
    """

    images: Any  # np.ndarray, or MappedRows
    labels: np.ndarray
    class_names: tuple[str, ...]
    name: str
    source: str
    background: Fill = None

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if not isinstance(images, np.ndarray | MappedRows) or not isinstance(labels, np.ndarray):
            raise DataError(
                f"{self.name}: images and labels are {type(images).__name__} and "
                f"{type(labels).__name__}\nexpected NumPy arrays\nUse Dataset.from_arrays."
            )
        if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
            raise DataError(
                f"{self.name}: images are {images.dtype} {list(images.shape)}\n"
                "expected uint8 [N, H, W, C] with no empty dimension\n"
                "Give pixel values from 0 to 255 as uint8, with C = 1 for grey images."
            )
        row = () if labels.ndim == 1 else (len(self.class_names),)
        kind = np.int32 if labels.ndim == 1 else np.float32
        if labels.dtype != kind or labels.shape != (len(images), *row):
            raise DataError(
                f"{self.name}: labels are {labels.dtype} {list(labels.shape)}\n"
                f"expected int32 [{len(images)}], or float32 [{len(images)}, K], K class names\n"
                "Give one label per image, or one vector."
            )
        check_encodable(str(self.name), "the data set's name")
        n_classes = len(check_class_names(self.class_names, self.name))
        if labels.ndim == 2:
            if not np.isfinite(labels).all():
                raise DataError(
                    f"{self.name}: labels have NaN or infinite numbers\nexpected finite ones\n"
                    "Replace them, or leave these images out."
                )
            return
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= n_classes:
            raise DataError(
                f"{self.name}: labels run from {low} to {high}\n"
                f"expected 0 to {n_classes - 1} ({plural(n_classes, 'class', 'classes')})\n"
                "Count them from 0, or give one name per class."
            )

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    def __repr__(self) -> str:
        """One line: name, shape of the images, class names and source."""
        return (
            f"Dataset({short_repr(self.name)}, images={self.images.dtype}"
            f"{list(self.images.shape)}, {plural(len(self.class_names), 'class', 'classes')} "
            f"{short_repr(self.class_names)}, source={one_line(repr(self.source), 100)})"
        )

    def class_counts(self) -> np.ndarray:
        """How many images each class has, int64 `[len(class_names)]`; of vectors, those above 0."""
        if self.labels.ndim == 2:
            return (self.labels > 0).sum(0)
        return np.bincount(self.labels, minlength=len(self.class_names))

    def count_words(self) -> str:
        """`class_counts` on one line; see `count_words`."""
        return count_words(self.class_names, self.class_counts())

    def identity(self) -> dict[str, str | int]:
        """The data's `name`, `n_images`, and a `sha256` of images, labels and class names."""
        digest = hashlib.sha256("\n".join(self.class_names).encode())
        for array in (self.images, self.labels):
            digest.update(f"\n{array.dtype.str} {array.shape}\n".encode())
            for start in range(0, len(array), _ROWS_AT_ONCE):  # which may be on disk
                digest.update(np.ascontiguousarray(array[start : start + _ROWS_AT_ONCE]).data)
        return {"name": self.name, "n_images": len(self), "sha256": digest.hexdigest()}

    @classmethod
    def from_arrays(
        cls,
        images: Any,
        labels: Any,
        class_names: tuple[str, ...] | list[str],
        *,
        name: str = "arrays",
        source: str = "arrays in memory",
    ) -> Self:
        """Make a Dataset from your own arrays, converting only if no value changes.

        Args:
            images: uint8 [N, H, W, C], or [N, H, W] for grey images (C = 1 is added).
            labels: [N], any integer type; or vectors [N, K], any type of floats.
            class_names: one name per class, or per column of the vectors.
            name: the name of the data set.
            source: one line that says where the arrays come from.

        Raises:
            DataError: as for Dataset; also labels that are not integers or not within int32.
        """
        names = check_class_names(class_names, name)
        then = "expected images of one size, and one label per image\nConvert them to arrays."
        with errors_as(DataError, f"{name}: images or labels are not an array", then):
            images = images if isinstance(images, MappedRows) else np.asarray(images)
            labels = np.asarray(labels)
        if images.ndim == 3:
            images = images[..., np.newaxis]
        if labels.ndim == 2 and np.issubdtype(labels.dtype, np.floating):
            return cls(images, labels.astype(np.float32), names, name, source)
        if not np.issubdtype(labels.dtype, np.integer):
            raise DataError(
                f"{name}: labels are {labels.dtype}\nexpected integers, or vectors of floats\n"
                "Give the index of each image's class name, counted from 0."
            )
        as_int32 = labels.astype(np.int32)
        if not np.array_equal(as_int32, labels):
            raise DataError(
                f"{name}: labels run from {labels.min()} to {labels.max()}\nexpected int32\n"
                "Count the classes from 0."
            )
        return cls(images, as_int32, names, name, source)


def count_words(class_names: Sequence[str], counts: Sequence[int] | np.ndarray) -> str:
    """How many images each class has, in words: of up to ten classes, or the extremes of more.

    Args:
        class_names: one per class.
        counts: integers, one per class.
    """
    names = [one_line(name, 40) for name in class_names]
    low, high = int(np.argmin(counts)), int(np.argmax(counts))
    if len(names) > 1 and counts[low] == counts[high]:
        return f"{len(names):,} classes of {plural(int(counts[low]), 'image')} each"
    if len(names) <= 10:
        return ", ".join(f"{name}: {n:,}" for name, n in zip(names, counts, strict=True))
    smallest, largest = (f"{counts[i]:,} ({names[i]})" for i in (low, high))
    median = round(float(np.median(counts)))
    return f"{len(names):,} classes, from {smallest} to {largest}, median {median:,}"
