"""TensorBoard's event files, written without TensorFlow.

A file is a row of records; each has its length, that one's checksum, an `Event` in Protocol
Buffers' encoding, and its checksum. tensorboardX writes them too, but imports PyTorch where it is
installed, which takes seconds, and writes in a thread, which dies unheard on a full disk.
"""

import os
import socket
import struct
import time
from pathlib import Path

from PIL import Image


class EventFile:
    """Collects events, and appends them to its file when asked to, so that no file stays open.

    Args:
        folder: where TensorBoard looks.
        purge_step: TensorBoard hides events of earlier files from this step on.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        folder.mkdir(exist_ok=True)
        # With nanoseconds, since two files may be begun within a second.
        seconds, rest = divmod(time.time_ns(), 10**9)
        name = f"events.out.tfevents.{seconds}.{rest:09}.{socket.gethostname()}.{os.getpid()}"
        self._path, self._waiting = folder / name, bytearray()
        self._add(_text(3, b"brain.Event:2"))  # the version of the format
        self._add(_integer(2, purge_step) + _text(7, _integer(1, 1)))  # SessionLog.START
        self.flush()

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Add a number after `step` steps."""
        self._summary(tag, struct.pack("<Bf", 2 << 3 | 5, value), step)

    def picture(self, tag: str, png: Path, step: int) -> None:
        """Add a PNG file after `step` steps."""
        with Image.open(png) as image:
            width, height = image.size
        content = _integer(1, height) + _integer(2, width) + _text(4, png.read_bytes())
        self._summary(tag, _text(4, content), step)

    def flush(self) -> None:
        """Write what was added since the last time.

        Raises:
            OSError: the file cannot be written.
        """
        with self._path.open("ab") as file:
            file.write(self._waiting)
        self._waiting.clear()

    def _summary(self, tag: str, value: bytes, step: int) -> None:
        self._add(_integer(2, step) + _text(5, _text(1, _text(1, tag.encode()) + value)))

    def _add(self, fields: bytes) -> None:
        event = struct.pack("<Bd", 1 << 3 | 1, time.time()) + fields
        length = struct.pack("<Q", len(event))
        self._waiting += length + _checksum(length) + event + _checksum(event)


def _varint(value: int) -> bytes:
    head = bytearray()
    while value > 127:
        head.append(value & 127 | 128)
        value >>= 7
    return bytes([*head, value])


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _crc_of(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (byte & 1) * 0x82F63B78
    return byte


_CRC32C = [_crc_of(byte) for byte in range(256)]


def _checksum(data: bytes) -> bytes:
    """CRC-32C, masked as in TFRecord files."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
