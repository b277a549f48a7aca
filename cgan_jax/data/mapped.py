"""Images that stay on disk: memory-mapped arrays of .npz files, and some rows of such arrays.

A mapped array takes no memory of its own: the system reads the pages that are asked for, and
forgets them when it needs room.
"""

import math
import os
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from cgan_jax.errors import DataError
from cgan_jax.files import write_errors

_ALIGNMENT = 64  # bytes
_PIECE = 2**20  # bytes that are read at a time
LARGE = 2**28  # bytes, from which on rows of a mapped array are not copied into memory


class MappedRows:
    """Some rows of a memory-mapped array, as an array whose rows are read when they are indexed.

    Args:
        base: the array, on disk.
        rows: which rows, integers `[N]`.
    """

    def __init__(self, base: np.ndarray, rows: np.ndarray) -> None:
        self._base, self._rows = base, rows
        self.shape, self.dtype = (len(rows), *base.shape[1:]), base.dtype
        self.ndim, self.size = base.ndim, math.prod(self.shape)
        self.nbytes = self.size * base.itemsize

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        first, *rest = index if isinstance(index, tuple) else (index,)
        rows = self._rows[first]
        if isinstance(first, slice):
            chosen: np.ndarray = self._base[rows]
            return chosen[(slice(None), *rest)]
        return self._base[(rows, *rest)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def take(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Write `self[rows]` into an array."""
        np.take(self._base, self._rows[rows], 0, out=out, mode="clip")


def is_on_disk(images: Any) -> bool:
    """Whether an array, or what it is a view of, is memory-mapped."""
    while images is not None and not isinstance(images, np.memmap | MappedRows):
        images = getattr(images, "base", None)
    return images is not None


def choose_rows(images: Any, rows: np.ndarray) -> Any:
    """The images with these indices: of a large mapped array `MappedRows`, otherwise a copy.

    A copy begins where JAX, on a CPU, uses it without another one.
    """
    if isinstance(images, MappedRows):
        return MappedRows(images._base, images._rows[rows])
    if images.nbytes >= LARGE and is_on_disk(images):
        return MappedRows(images, rows)
    chosen = empty_images((len(rows), *images.shape[1:]))
    np.take(images, rows, 0, out=chosen, mode="clip")  # "raise" would need a buffer
    return chosen


def empty_images(shape: tuple[int, ...]) -> np.ndarray:
    """An uninitialised uint8 array that begins where JAX, on a CPU, uses it without a copy."""
    memory = np.empty(math.prod(shape) + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + math.prod(shape)].reshape(shape)


def empty_on_disk(shape: tuple[int, ...], folder: Path) -> np.ndarray:
    """A uint8 array in a nameless file, which is gone when the array is.

    Raises:
        RunError: the disk has no room for it.
    """
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):  # or writing would end the process on a full disk
                os.posix_fallocate(file.fileno(), 0, math.prod(shape))
            return np.memmap(file, np.uint8, "w+", shape=shape)


def read_array(path: Path, archive: zipfile.ZipFile, member: str) -> np.ndarray:
    """A uint8 array of an .npz file, mapped if it is not compressed; its checksum is verified.

    Raises:
        TypeError: its numbers are of another type, or in Fortran's order.
        Exception: of many kinds, if the archive is broken.
    """
    info = archive.getinfo(member)
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        shape, in_fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        header = file.tell()
        if in_fortran_order or dtype != np.uint8 or version != (1, 0):
            raise TypeError(f"{member} is {dtype}")
        if info.compress_type != zipfile.ZIP_STORED:
            array = empty_images(shape)
            rest = array.reshape(-1).data
            while len(rest):
                piece = file.read(min(len(rest), _PIECE))
                if not piece:
                    raise EOFError(f"{member} is cut")
                rest[: len(piece)] = piece
                rest = rest[len(piece) :]
            return array
    start = _data_offset(path, info)
    if info.file_size != header + math.prod(shape):
        raise EOFError(f"{member} has {info.file_size - header} bytes for {list(shape)}")
    whole = np.memmap(path, np.uint8, "r", start, (info.file_size,))
    crc = 0
    for first in range(0, len(whole), _PIECE):
        crc = zlib.crc32(whole[first : first + _PIECE].data, crc)
    if crc != info.CRC:
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {member!r}")
    return whole[header:].reshape(shape)


def _data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: behind a local header of 30 bytes, a name and extra fields."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(30)
    signature, name, extra = struct.unpack("<4s22xHH", header)
    if signature != b"PK\x03\x04":
        raise zipfile.BadZipFile("Bad magic number for file header")
    return info.header_offset + 30 + int(name) + int(extra)


def check_unpacked_size(path: Path, archive: zipfile.ZipFile, memory: float) -> None:
    """Raises DataError if an archive's compressed members unpack to more than half of the memory.

    A small file can unpack to any size. What is not compressed stays on disk.
    """
    compressed = (i for i in archive.infolist() if i.compress_type != zipfile.ZIP_STORED)
    size = sum(info.file_size for info in compressed)
    if 2 * size > memory:
        raise DataError(
            f"{path}: its compressed arrays unpack to {size / 1e9:.1f} GB\n"
            f"expected at most half of this machine's {memory / 1e9:.1f} GB\n"
            "Save them with np.savez, which does not compress: then they stay on disk."
        )
