"""An .npz file of arrays as a source, such as `python -m experiments.sample` writes."""

import zipfile
from os import PathLike
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.lib import format as npy

from cgan_jax.checks import as_path, errors_as, one_line
from cgan_jax.data import square_images
from cgan_jax.data.dataset import Dataset
from cgan_jax.data.square_images import to_pillow
from cgan_jax.errors import DataError


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype


def load_npz(
    path: str | PathLike[str], img_size: int | None = None, channels: int | None = None
) -> Dataset:
    """Load the arrays `images`, `labels` and, if present, `class_names` of an .npz file.

    Args:
        path: the file. Its `images` are uint8 `[N, H, W]`, or `[N, H, W, C]` with one channel
            (grey), three (RGB) or four (RGBA); `labels` are integers `[N]`, at least 0;
            `class_names` are strings, in the order of the labels, by default the labels.
        img_size: height and width that the central square of each image is resized to; by default
            the shorter of the two.
        channels: 1 for grey, 3 for colour; by default the number in the file, without opacity.

    Returns:
        uint8 `[N, img_size, img_size, channels]`, named after the file. Classes without images are
        left out.

    Raises:
        ConfigError: an invalid size or number of channels.
        DataError: no such file, or arrays that are missing, pickled, of another shape or dtype, or
            larger than this machine's memory holds.
    """
    square_images.check_options(img_size, channels)
    file = as_path(path, "the data file")
    then = "expected an .npz file, as np.savez writes it\nRepair it, or name another."
    with errors_as(DataError, f"{file} cannot be read", then):  # of many kinds
        with zipfile.ZipFile(file) as archive:
            headers = {
                name.removesuffix(".npy"): _read_header(archive.open(name))
                for name in archive.namelist()
                if name.endswith(".npy")
            }
        _check_headers(file, headers)
        n, height, width, *depth = headers["images"].shape
        square_images.check_memory(str(file), headers["images"].shape)
        side = img_size or square_images.native_size(min(height, width), str(file))
        channels = channels or min([*depth, 1][0], 3)
        square_images.check_memory(file.stem, (n, side, side, channels))
        with np.load(file, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
            names = arrays["class_names"].tolist() if "class_names" in headers else None
    if labels.size and labels.min() < 0:
        raise DataError(
            f"{file}: labels run from {labels.min()}\nexpected 0 or more\n"
            "Count the classes from 0, and remove unlabelled images."
        )
    if names is None:
        values, labels = np.unique(labels, return_inverse=True)
        names = [str(value) for value in values]
    images = images.reshape(n, height, width, -1)
    crops = (square_images.center_crop(to_pillow(image), side, channels) for image in images)
    with square_images.strict_decoding():
        images = square_images.stack(crops, n, side, channels, file.stem)
    return square_images.to_dataset(images, labels, names, file.stem, f"the file {file}")


def _read_header(stream: IO[bytes]) -> _Header:
    """Shape and dtype of an array, without its data: a small file can unpack to any size."""
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
                "expected images, labels and optionally class_names\n"
                "Save them with np.savez(file, images=..., labels=...)."
            )
    for name in ("images", "labels", "class_names"):
        if name in headers and headers[name].dtype.hasobject:
            raise DataError(
                f"{name} in {file} is an array of Python objects, and loading would run code\n"
                "expected an array of numbers or strings\n"
                "Save images of one size as uint8, labels as integers, class names as strings."
            )
    shape, dtype = headers["images"]
    if dtype != np.uint8:
        raise DataError(
            f"images in {file} are {dtype}, expected uint8, pixel values from 0 to 255\n"
            "Save (images * 255).round().astype('uint8') if they run from 0 to 1."
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
            f"expected integers [{headers['images'].shape[0]}]\nGive one label per image."
        )
