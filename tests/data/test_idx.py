"""The idx reader gives the array, or a DataError that names the file and what is wrong with it."""

import gzip
import struct
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgan_jax.data import idx
from cgan_jax.errors import DataError

SHAPE = (5, 3, 2)
ARRAY = np.arange(30, dtype=np.uint8).reshape(SHAPE)
RAW = b"\0\0\x08\x03" + struct.pack(">3I", *SHAPE) + ARRAY.tobytes()
ZIPPED = gzip.compress(RAW)
IN_PARTS = gzip.compress(RAW[:9]) + gzip.compress(RAW[9:])


@pytest.mark.parametrize("data", [RAW, ZIPPED, IN_PARTS], ids=["raw", "zipped", "in parts"])
def test_reads_raw_and_gzipped_files_whatever_their_names(tmp_path, data):
    path = tmp_path / "file"
    path.write_bytes(data)
    read = idx.read_file(path, SHAPE)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, ARRAY)


def test_header_and_sha256_are_those_of_the_file():
    import hashlib

    assert idx.header(SHAPE) == RAW[:16]
    assert idx.sha256(ARRAY) == hashlib.sha256(RAW).hexdigest()
    assert idx.sha256(ARRAY[::-1][::-1]) == idx.sha256(ARRAY)


BROKEN = {
    "empty": (b"", "starts with nothing"),
    "magic": (b"\1" + RAW[1:], "not such an idx file: it starts with 01 00 08 03"),
    "text": (b"<html>", "not such an idx file"),
    "dtype": (RAW[:2] + b"\x0d" + RAW[3:], "starts with 00 00 0d 03\nexpected 00 00 08 03"),
    "ndim": (RAW[:3] + b"\x01" + RAW[4:], "starts with 00 00 08 01\nexpected 00 00 08 03"),
    "header": (RAW[:11], "cut short within its header"),
    "sizes": (RAW[:4] + struct.pack(">3I", 5, 2, 3) + RAW[16:], r"shape \[5, 2, 3\]"),
    "short": (RAW[:-1], "cut short: 29 bytes"),
    "long": (RAW + b"\0", "bytes after its data"),
    "zip short": (ZIPPED[:-9], "damaged or cut short"),
    "zip start": (ZIPPED[:5], "damaged or cut short"),
    "zip crc": (ZIPPED[:-8] + bytes(4) + ZIPPED[-4:], "damaged or cut short"),
    "zip method": (ZIPPED[:2] + b"\x07" + ZIPPED[3:], "damaged or cut short"),
    "zip data": (ZIPPED[:10] + b"\xff" + ZIPPED[11:], "damaged or cut short"),
    "zip tail": (ZIPPED + b"junk", "damaged or cut short"),
    "zip long": (gzip.compress(RAW + b"\0"), "bytes after its data"),
}


@pytest.mark.parametrize(("data", "message"), BROKEN.values(), ids=BROKEN)
def test_refuses_broken_files(tmp_path, data, message):
    path = tmp_path / "broken-file"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        idx.read_file(path, SHAPE)
    assert str(path) in str(caught.value)
    assert "expected" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_refuses_what_cannot_be_opened(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match=str(path)):
            idx.read_file(path, SHAPE)


@pytest.mark.parametrize("claimed", [SHAPE, (2**32 - 1,) * 3])
def test_a_decompression_bomb_is_not_unpacked(tmp_path, claimed):
    bomb = tmp_path / "bomb"
    bomb.write_bytes(gzip.compress(idx.header(claimed) + bytes(200_000_000), compresslevel=1))
    tracemalloc.start()
    with pytest.raises(DataError):
        idx.read_file(bomb, SHAPE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def read_is_total(data):
    message = ""
    with TemporaryDirectory() as folder:
        file = Path(folder, "file")
        file.write_bytes(data)
        try:
            assert idx.read_file(file, SHAPE).shape == SHAPE
        except DataError as error:
            message = str(error)
    lines = message.splitlines()
    assert not lines or (len(lines) == 2 and lines[0].startswith(f"{file} "))
    assert not lines or lines[1].startswith("expected ")


@given(st.binary(max_size=80), st.sampled_from([b"", RAW[:4], RAW[:16], ZIPPED[:10]]))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_an_array_or_a_data_error(data, start):
    read_is_total(start + data)


@given(st.sampled_from([RAW, ZIPPED]), st.integers(0, 60), st.binary(max_size=4), st.integers(0, 4))
@settings(max_examples=300, deadline=None)
def test_any_change_gives_an_array_or_a_data_error(data, at, put_in, left_out):
    read_is_total(data[:at] + put_in + data[at + left_out :])
