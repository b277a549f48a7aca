"""A directory of idx files as a source: finding a split's pair of files, reading and verifying it.

The file format itself is read in idx.py; `verify` also serves the sources that hold no idx files.
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
    """The split's files of images and labels, gzipped or not, or None if neither is there.

    Raises:
        DataError: only one of the two is there.
    """
    names = spec.splits[split].images_file, spec.splits[split].labels_file
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
    """Read and verify a split's files of images and labels.

    Raises:
        DataError: a file is unreadable, broken, or not the published one.
    """
    shape = spec.splits[split].shape
    images = idx.read(files[0], shape)
    labels = idx.read(files[1], shape[:1])
    idx.check_labels(labels, len(spec.class_names), str(files[1]))
    arrays = Arrays(images, labels)
    verify(spec, split, arrays, str(files[0].parent))
    return arrays


def verify(spec: Spec, split: str, arrays: Arrays, where: str) -> None:
    """Compare a split with the published hashes.

    Raises:
        DataError: it differs; `where` names the place in the message.
    """
    wanted = spec.splits[split]
    for what, array, expected in (
        ("images", arrays.images, wanted.images_sha256),
        ("labels", arrays.labels, wanted.labels_sha256),
    ):
        found = idx.sha256(array)
        if found != expected:
            raise DataError(
                f"the {split} {what} in {where} are not {spec.title}'s: SHA-256 {found[:16]}...\n"
                f"expected {expected[:16]}..."
            )
