"""An .npz file of arrays as a source, such as `python -m experiments.sample` writes."""

import zipfile
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.lib import format as npy

from cgan_jax.checks import as_directory, one_line
from cgan_jax.data import pictures
from cgan_jax.data.dataset import Dataset
from cgan_jax.errors import DataError


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype


def load_npz(
    path: str | PathLike[str], img_size: int | None = None, channels: int | None = None
) -> Dataset:
    """Load the arrays `images`, `labels` and, if it is there, `class_names` of an .npz file.

    Args:
        path: the file. Its `images` are uint8 `[N, H, W]`, or `[N, H, W, C]` with one channel
            (grey), three (colour) or four (the last tells how opaque); `labels` integers `[N]`, at
            least 0; `class_names` texts, in the order of the labels, which by default are the
            names.
        img_size: height and width that the central square of each image is resized to; by default
            the shorter of their own.
        channels: 1 for grey, 3 for colour; by default what they have.

    Returns:
        uint8 `[N, img_size, img_size, channels]`, named as the file. Classes that no image has are
        left out.

    Raises:
        ConfigError: a size or number of channels that cannot be.
        DataError: no such file, arrays that are missing, pickled or of other shapes or dtypes, or
            larger than this machine can hold.
    """
    pictures.check_wishes(img_size, channels)
    file = as_directory(path, "the data's file")
    try:
        with zipfile.ZipFile(file) as archive:
            headers = {
                name.removesuffix(".npy"): _header(archive.open(name))
                for name in archive.namelist()
                if name.endswith(".npy")
            }
    # A broken archive raises whatever its parts do.
    except Exception as error:
        raise _broken(file, error) from error
    _check_headers(file, headers)
    pictures.check_memory(str(file), headers["images"].shape)
    n, height, width, *depth = headers["images"].shape
    side = img_size or pictures.own_size(min(height, width), str(file))
    channels = channels or min([*depth, 1][0], 3)
    with pictures.strictly():
        squares = _squares(file, side, channels)
        images = pictures.stack(squares, n, side, channels, file.stem)
    labels, names = _read(file, "labels"), None
    if labels.size and labels.min() < 0:
        raise DataError(
            f"{file}: labels run from {labels.min()}, expected 0 or more\n"
            "Count the classes from 0, and leave out images of none."
        )
    if "class_names" in headers:
        names = _read(file, "class_names").tolist()
    else:
        values, labels = np.unique(labels, return_inverse=True)
        names = [str(value) for value in values]
    return pictures.dataset(images, labels, names, file.stem, f"the file {file}")


def _header(stream: IO[bytes]) -> _Header:
    """What an array is, before its data are read: a small file can unpack to any size."""
    with stream:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(stream)
    return _Header(shape, dtype)


def _check_headers(file: Path, headers: dict[str, _Header]) -> None:
    for name in ("images", "labels"):
        if name not in headers:
            raise DataError(
                f"{file} has no array {name!r}; it holds {one_line(', '.join(headers), 80)}\n"
                "expected images, labels and perhaps class_names\n"
                "Save them so: np.savez(file, images=..., labels=...)."
            )
    for name in ("images", "labels", "class_names"):
        if name in headers and headers[name].dtype.hasobject:
            raise DataError(
                f"{name} in {file} is an array of Python objects, which would have to be run\n"
                "expected an array of numbers or texts\n"
                "Save images of one size as uint8, labels as integers, class names as texts."
            )
    shape, dtype = headers["images"]
    if dtype != np.uint8:
        raise DataError(
            f"images in {file} are {dtype}, expected uint8, pixel values from 0 to 255\n"
            "Save (images * 255).round().astype('uint8') where they run from 0 to 1."
        )
    if len(shape) not in (3, 4) or 0 in shape or (len(shape) == 4 and shape[3] not in (1, 3, 4)):
        raise DataError(
            f"images in {file} are {list(shape)}\n"
            "expected [N, H, W], or [N, H, W, C] with 1, 3 or 4 channels, none of them 0\n"
            "Put the channels last: images.transpose(0, 2, 3, 1) if they come before H."
        )
    shape, dtype = headers["labels"]
    if shape != headers["images"].shape[:1] or not np.issubdtype(dtype, np.integer):
        raise DataError(
            f"labels in {file} are {dtype} {list(shape)}\n"
            f"expected integers [{headers['images'].shape[0]}]\nGive one for each image."
        )


def _squares(file: Path, img_size: int, channels: int) -> Iterator[tuple[np.ndarray, bool]]:
    images = _read(file, "images")
    images = images[..., np.newaxis] if images.ndim == 3 else images
    return pictures.squares(images, img_size, channels)


def _read(file: Path, name: str) -> np.ndarray:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return np.asarray(arrays[name])
    except Exception as error:  # as in load_npz
        raise _broken(file, error) from error


def _broken(file: Path, error: Exception) -> DataError:
    return DataError(
        f"{file} cannot be read: {one_line(error)}\n"
        "expected an .npz file, as np.savez writes it\nMend it, or name another."
    )
