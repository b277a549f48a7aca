"""An .npz file of arrays as a source, such as `python -m experiments.sample` writes."""

import zipfile
from os import PathLike
from pathlib import Path

import numpy as np

from cgan_jax.checks import as_path, errors_as, one_line
from cgan_jax.data import square_images
from cgan_jax.data.dataset import Dataset
from cgan_jax.data.square_images import to_pillow
from cgan_jax.errors import DataError


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
    arrays = _read(file)
    images, labels = _check_images(file, arrays["images"]), arrays["labels"]
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"labels in {file} are {labels.dtype} {list(labels.shape)}\n"
            f"expected integers [{len(images)}]\nGive one label per image."
        )
    if labels.min() < 0:
        raise DataError(
            f"{file}: labels run from {labels.min()}\nexpected 0 or more\n"
            "Count the classes from 0, and remove unlabelled images."
        )
    n, height, width, depth = images.shape
    side = img_size or square_images.native_size(min(height, width), str(file))
    channels = channels or min(depth, 3)
    crops = (square_images.center_crop(to_pillow(image), side, channels) for image in images)
    with square_images.strict_decoding():
        images = square_images.stack(crops, n, side, channels, file.stem)
    if "class_names" in arrays:
        names = arrays["class_names"].tolist()
    else:
        values, labels = np.unique(labels, return_inverse=True)
        names = [str(value) for value in values]
    return square_images.to_dataset(images, labels, names, file.stem, f"the file {file}")


def _read(file: Path) -> dict[str, np.ndarray]:
    """The file's `images`, `labels` and, if present, `class_names`."""
    then = (
        "expected an .npz file of numbers and strings, as np.savez writes it\n"
        "Save images of one size as uint8, labels as integers, names as strings; or name another."
    )
    with errors_as(DataError, f"{file} cannot be read", then):  # of many kinds
        with zipfile.ZipFile(file) as archive:  # a small file can unpack to any size
            square_images.check_memory(str(file), (sum(i.file_size for i in archive.infolist()),))
        with np.load(file, allow_pickle=False) as saved:
            wanted = ("images", "labels", "class_names")
            arrays = {name: saved[name] for name in wanted if name in saved}
            found = one_line(", ".join(saved), 80)
    for name in wanted[:2]:
        if name not in arrays:
            raise DataError(
                f"{file} has no array {name!r}; it holds {found}\n"
                "expected images, labels and optionally class_names\n"
                "Save them with np.savez(file, images=..., labels=...)."
            )
    return arrays


def _check_images(file: Path, images: np.ndarray) -> np.ndarray:
    """The images as uint8 `[N, H, W, C]`."""
    shape, dtype = images.shape, images.dtype
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
    return images[..., np.newaxis] if len(shape) == 3 else images
