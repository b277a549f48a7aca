"""A directory of idx files as a source: finding the two files of a split, reading, verifying.

idx.py reads the file format itself; `verify` also serves the sources without idx files.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from cgan_jax.data import idx
from cgan_jax.data.spec import Spec
from cgan_jax.errors import DataError


class Arrays(NamedTuple):
    """A split as its idx files hold it: images uint8 [N, H, W], labels uint8 [N]."""

    images: np.ndarray
    labels: np.ndarray


def find(spec: Spec, split: str, directory: Path) -> tuple[Path, Path] | None:
    """The images and labels files of a split, gzipped or not, or None if neither exists.

    Raises:
        DataError: only one of the two exists.
    """
    names = [file.name for file in spec.splits[split]]
    images, labels = (
        next((p for p in (directory / name, directory / f"{name}.gz") if p.is_file()), None)
        for name in names
    )
    if images is None and labels is None:
        return None
    if images is None or labels is None:
        missing = names[0] if images is None else names[1]
        raise DataError(f"{directory} lacks {missing}[.gz]\nexpected {' and '.join(names)}")
    return images, labels


def read(spec: Spec, split: str, files: tuple[Path, Path]) -> Arrays:
    """Read and verify the images and labels files of a split.

    Raises:
        DataError: a file is unreadable, broken, or not the published one.
    """
    pairs = zip(files, spec.splits[split], strict=True)
    arrays = Arrays(*(idx.read(path, file.shape) for path, file in pairs))
    verify(spec, split, arrays, str(files[0].parent))
    return arrays


def verify(spec: Spec, split: str, arrays: Arrays, where: str) -> None:
    """Compare a split with its published hashes.

    Raises:
        DataError: a label is out of range, or a hash differs; `where` names the place.
    """
    highest, n_classes = int(arrays.labels.max()), len(spec.class_names)
    if highest >= n_classes:
        raise DataError(
            f"the {split} labels in {where} run to {highest}\n"
            f"expected 0 to {n_classes - 1} ({n_classes} classes)"
        )
    for what, file, array in zip(Arrays._fields, spec.splits[split], arrays, strict=True):
        sha256 = idx.sha256(array)
        if sha256 != file.sha256:
            raise DataError(
                f"the {split} {what} in {where} are not {spec.title}'s: SHA-256 {sha256[:16]}...\n"
                f"expected {file.sha256[:16]}..."
            )
