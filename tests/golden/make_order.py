"""Makes cgan_jax/data/fashion_mnist_order.npz, the table that undoes TFDS's shuffling.

Run: python tests/golden/make_order.py DIRECTORY, where DIRECTORY holds the four idx files.
"""

import sys
from pathlib import Path

import numpy as np

from cgan_jax.data import idx, tfds_files
from cgan_jax.data.spec import FASHION_MNIST, Spec


def make(spec: Spec, directory: Path) -> None:
    """Write `spec.order_file` from the published idx files in `directory`, verified first."""
    tables = {}
    for split in spec.splits:
        files = idx.find(spec, split, directory)
        if files is None:
            raise SystemExit(f"{directory} holds no idx files of the {split} split")
        order = tfds_files.content_order(idx.read(spec, split, files))
        tables[split] = order.astype(np.uint16)
    np.savez_compressed(spec.order_file, allow_pickle=False, **tables)


if __name__ == "__main__":
    make(FASHION_MNIST, Path(sys.argv[1]))
