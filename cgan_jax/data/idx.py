"""Readers for idx files, the format of MNIST and its relatives, gzipped or raw.

Any sequence of bytes gives an array or a DataError. spec.py lists the files of each data set.
"""

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cgan_jax.checks import plural
from cgan_jax.errors import DataError

_UNSIGNED_BYTE = 0x08
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20


def read(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read an idx file of unsigned bytes, gzipped or raw, whatever its name.

    Args:
        path: the file.
        shape: the shape that the file must hold, each dimension at least 1.

    Returns:
        uint8 array of that shape.

    Raises:
        DataError: the file cannot be opened, or is not a complete idx file of that shape.
    """
    try:
        with open(path, "rb") as stream:
            return parse(stream, str(path), shape)
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror or error}\nexpected a file that you may read"
        ) from error


def parse(stream: BinaryIO, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Read an idx file from a seekable binary stream; `name` names it in errors. See `read`."""
    magic = stream.read(2)
    stream.seek(0)
    if magic != _GZIP_MAGIC:
        return _parse_raw(stream, name, shape)
    try:
        with gzip.GzipFile(fileobj=stream) as unzipped:
            return _parse_raw(unzipped, name, shape)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{name} is damaged or cut short: {error}\nexpected a complete gzip file"
        ) from error


def header(shape: tuple[int, ...]) -> bytes:
    """The idx header of an array of unsigned bytes with that shape."""
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, _UNSIGNED_BYTE, len(shape), *shape)


def sha256(array: np.ndarray) -> str:
    """The SHA-256 of a uint8 array written as a raw idx file, in hexadecimal."""
    digest = hashlib.sha256(header(array.shape))
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _parse_raw(stream: BinaryIO | gzip.GzipFile, name: str, shape: tuple[int, ...]) -> np.ndarray:
    expected = f"expected unsigned bytes of shape {list(shape)}"
    start = _read_up_to(stream, 4)
    if len(start) < 4 or start[:2] != b"\0\0":
        raise DataError(
            f"{name} is not an idx file: it starts with {bytes(start).hex(' ') or 'nothing'}\n"
            f"expected 00 00 {_UNSIGNED_BYTE:02x} {len(shape):02x}"
        )
    if start[2] != _UNSIGNED_BYTE:
        raise DataError(f"{name} holds data of idx type 0x{start[2]:02x}\n{expected} (0x08)")
    if start[3] != len(shape):
        raise DataError(f"{name} has {plural(start[3], 'dimension')}\n{expected}")
    sizes = _read_up_to(stream, 4 * len(shape))
    if len(sizes) < 4 * len(shape):
        raise DataError(f"{name} is cut short within its header\n{expected}")
    file_shape = struct.unpack(f">{len(shape)}I", sizes)
    if file_shape != shape:
        raise DataError(f"{name} holds an array of shape {list(file_shape)}\n{expected}")
    # One byte more than needed shows whether bytes follow the data. The sizes, checked above,
    # bound the memory that a malicious gzip file can take.
    count = math.prod(shape)
    data = _read_up_to(stream, count + 1)
    if len(data) < count:
        raise DataError(
            f"{name} is cut short: {plural(len(data), 'byte')} of data\nexpected {count:,}"
        )
    if len(data) > count:
        raise DataError(f"{name} has bytes after its data\nexpected {plural(count, 'byte')}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _read_up_to(stream: BinaryIO | gzip.GzipFile, count: int) -> bytearray:
    """Read `count` bytes, or fewer at the end of the stream."""
    data = bytearray()
    while len(data) < count and (chunk := stream.read(min(_CHUNK, count - len(data)))):
        data += chunk
    return data
