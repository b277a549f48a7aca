"""Idx files, the format of MNIST and its relatives, gzipped or raw: one of them, or a split's two.

Any file gives an array or a DataError. spec.py lists the files of each data set; `Arrays` and
`verify` also serve the sources without idx files.
"""

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cgan_jax.checks import errors_as, plural
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
    arrays = Arrays(*(read_file(path, file.shape) for path, file in pairs))
    verify(spec, split, arrays, str(files[0].parent))
    return arrays


def verify(spec: Spec, split: str, arrays: Arrays, where: str) -> None:
    """Compare a split with its published hashes.

    Raises:
        DataError: a hash differs; `where` names the place.
    """
    for what, file, array in zip(Arrays._fields, spec.splits[split], arrays, strict=True):
        actual = sha256(array)
        if actual != file.sha256:
            raise DataError(
                f"the {split} {what} in {where} are not {spec.title}'s: SHA-256 {actual[:16]}...\n"
                f"expected {file.sha256[:16]}..."
            )


def header(shape: tuple[int, ...]) -> bytes:
    """The idx header of an array of unsigned bytes with that shape."""
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 0x08, len(shape), *shape)


def sha256(array: np.ndarray) -> str:
    """The SHA-256 of a uint8 array written as a raw idx file, in hexadecimal."""
    digest = hashlib.sha256(header(array.shape))
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def read_file(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read an idx file of unsigned bytes, gzipped or raw, whatever its name.

    Args:
        path: the file.
        shape: the shape that the file must hold, each dimension at least 1. It bounds the memory
            that a malicious gzip file can take.

    Returns:
        uint8 array of that shape.

    Raises:
        DataError: the file cannot be opened, or is not a complete idx file of that shape.
    """
    array, n_bytes = np.empty(shape, np.uint8), math.prod(shape)
    damage, broken = "expected a complete gzip file", (EOFError, zlib.error, gzip.BadGzipFile)
    with (
        errors_as(DataError, f"cannot read {path}", "expected a file that you may read", OSError),
        errors_as(DataError, f"{path} is damaged or cut short", damage, broken),
        open(path, "rb") as file,
    ):
        is_gzip = file.peek(2)[:2] == b"\x1f\x8b"
        stream = gzip.GzipFile(fileobj=file) if is_gzip else file
        _check_header(path, stream.read(len(header(shape))), shape)
        n_read, has_more = stream.readinto(array.data), bool(stream.read(1))
    if n_read < n_bytes:
        raise DataError(
            f"{path} is cut short: {plural(n_read, 'byte')} of data\nexpected {n_bytes:,}"
        )
    if has_more:
        raise DataError(f"{path} has bytes after its data\nexpected {plural(n_bytes, 'byte')}")
    return array


def _check_header(path: Path, start: bytes, shape: tuple[int, ...]) -> None:
    """Compare a file's first bytes with an idx header."""
    magic, expected = header(shape)[:4], f"unsigned bytes of shape {list(shape)}"
    if start[:4] != magic:
        raise DataError(
            f"{path} is not such an idx file: it starts with {start[:4].hex(' ') or 'nothing'}\n"
            f"expected {magic.hex(' ')}, {expected}"
        )
    if len(start) < len(header(shape)):
        raise DataError(f"{path} is cut short within its header\nexpected {expected}")
    file_shape = struct.unpack(f">{len(shape)}I", start[4:])
    if file_shape != shape:
        raise DataError(f"{path} holds an array of shape {list(file_shape)}\nexpected {expected}")
