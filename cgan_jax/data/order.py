"""Restoring the published order of a split from any other order, by content.

TFDS shuffles when it prepares a data set; a table holds the published position of each example.
"""

from pathlib import Path

import numpy as np

from cgan_jax.data.idx_files import Arrays
from cgan_jax.errors import DataError


def table(arrays: Arrays) -> np.ndarray:
    """The published positions of a split's examples, sorted by content.

    Args:
        arrays: a split in its published order, N <= 65,536.

    Returns:
        uint16 [N].
    """
    return _argsort(arrays).astype(np.uint16)


def restore(arrays: Arrays, order_file: Path, split: str) -> Arrays:
    """Put a shuffled split into its published order.

    This does not check that the examples are the published ones: verify the result.

    Args:
        arrays: images and labels in any order.
        order_file: npz file with one `table` per split.
        split: the split's name.

    Raises:
        DataError: the table has another number of examples.
    """
    with np.load(order_file) as tables:
        positions = tables[split]
    if len(positions) != len(arrays.labels):
        raise DataError(
            f"the {split} split has {len(arrays.labels)} examples\nexpected {len(positions)}"
        )
    source_rows = np.empty(len(positions), np.intp)
    source_rows[positions] = _argsort(arrays)
    return Arrays(arrays.images[source_rows], arrays.labels[source_rows])


def _argsort(arrays: Arrays) -> np.ndarray:
    # The label is part of the key because some images occur twice with different labels; examples
    # that are equal in both are interchangeable.
    n = len(arrays.labels)
    keys = np.concatenate([arrays.images.reshape(n, -1), arrays.labels.reshape(n, 1)], axis=1)
    return np.argsort(keys.view(f"S{keys.shape[1]}").ravel(), kind="stable")
