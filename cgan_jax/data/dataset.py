"""Dataset: a whole labelled image set in memory, checked once when it is made.

Where images come from is the business of the other modules of this package.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from cgan_jax.checks import check_class_names, one_line
from cgan_jax.errors import DataError


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images as arrays.

    Args:
        images: uint8 [N, H, W, C], N, H, W and C at least 1, pixel values 0 to 255.
        labels: int32 [N], 0 <= label < len(class_names).
        class_names: one name a class, at least one, of one line each; a label is an index into it.
        name: the data set's name, such as "fashion_mnist".
        source: one line that tells a user where the arrays were read from.

    Raises:
        DataError: an array has another shape, dtype or range than said here.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    name: str
    source: str

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if not isinstance(images, np.ndarray) or not isinstance(labels, np.ndarray):
            raise DataError(
                f"{self.name}: images and labels are {type(images).__name__} and "
                f"{type(labels).__name__}, expected NumPy arrays\nUse Dataset.from_arrays."
            )
        if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
            raise DataError(
                f"{self.name}: images are {images.dtype} {list(images.shape)}, "
                "expected uint8 [N, H, W, C] with no empty dimension\n"
                "Give pixel values from 0 to 255 as uint8, with C = 1 for grey images."
            )
        if labels.dtype != np.int32 or labels.shape != images.shape[:1]:
            raise DataError(
                f"{self.name}: labels are {labels.dtype} {list(labels.shape)}, "
                f"expected int32 [{len(images)}]\nGive one for each image."
            )
        check_class_names(self.class_names, self.name)
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(self.class_names):
            raise DataError(
                f"{self.name}: labels run from {low} to {high}, "
                f"expected 0 to {len(self.class_names) - 1} ({len(self.class_names)} classes)\n"
                "Count them from 0, or give a name for each class."
            )

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    def identity(self) -> dict[str, str | int]:
        """What tells these data from others: `name`, `n_images`, and `sha256` of what they hold."""
        digest = hashlib.sha256("\n".join(self.class_names).encode(errors="surrogatepass"))
        for array in (self.images, self.labels):
            digest.update(f"\n{array.dtype.str} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).data)
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
        """Make a Dataset from one's own arrays, widening only what cannot change a value.

        Args:
            images: uint8 [N, H, W, C], or [N, H, W] for grey images (C = 1 is added).
            labels: [N], any integer type.
            class_names: one name a class.
            name: the data set's name.
            source: one line that says where the arrays come from.

        Raises:
            DataError: as for Dataset; also labels that are not integers or not within int32.
        """
        names = check_class_names(class_names, name)
        try:
            images, labels = np.asarray(images), np.asarray(labels)
        except (TypeError, ValueError, RuntimeError) as error:  # the last is PyTorch's
            raise DataError(
                f"{name}: images or labels are no array: {one_line(error)}\n"
                "expected images of one size, and one label for each\nMake arrays of them."
            ) from error
        if images.ndim == 3:
            images = images[..., np.newaxis]
        if not np.issubdtype(labels.dtype, np.integer):
            raise DataError(
                f"{name}: labels are {labels.dtype}, expected integers\n"
                "Give each image's place among the class names, counted from 0."
            )
        as_int32 = labels.astype(np.int32)
        if not np.array_equal(as_int32, labels):
            raise DataError(
                f"{name}: labels run from {labels.min()} to {labels.max()}, expected int32\n"
                "Count the classes from 0."
            )
        return cls(images, as_int32, names, name, source)
