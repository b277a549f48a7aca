"""Square uint8 images from images of any size and mode: shared by the loaders of your own data.

folder.py, npz.py and tfds_named.py read the images.
"""

import contextlib
import logging
import math
import os
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from cgan_jax.checks import as_int, check_int, one_line, plural, short_repr
from cgan_jax.data.dataset import Dataset
from cgan_jax.errors import ConfigError, DataError

MAX_NATIVE_SIZE = 128  # pixels per side without an explicit img_size: beyond, the networks are huge
Crop = tuple[np.ndarray, bool]  # a square image, and whether it was cropped or resized
_log = logging.getLogger("cgan_jax")


def check_options(img_size: Any, channels: Any) -> None:
    """Raise a ConfigError for an invalid `img_size` or `channels`; see `load_folder`."""
    if img_size is not None:
        check_int("img_size", img_size, 1, hint="Omit it for the native size of the images.")
    if channels is not None and as_int(channels) not in (1, 3):
        raise ConfigError(
            f"channels must be 1 (grey) or 3 (colour), not {short_repr(channels)}\n"
            "Omit it for the channels of the images."
        )


def native_size(shorter_side: int, name: str) -> int:
    """The size for images whose shorter sides all have this length, if no other is requested.

    Raises:
        DataError: it is too large for networks whose layers are all fully connected.
    """
    if shorter_side > MAX_NATIVE_SIZE:
        raise DataError(
            f"the images of {name} are {shorter_side} pixels wide, which needs huge networks\n"
            f"expected at most {MAX_NATIVE_SIZE} pixels, or an explicit size\n"
            f"Choose one with --img-size (img_size=): 32 trains fast; {shorter_side} keeps all."
        )
    return shorter_side


def center_crop(image: Image.Image, img_size: int, channels: int) -> Crop:
    """Resize the central square of an image; its EXIF orientation is applied first.

    Transparent pixels become white. Grey of 16 or 32 bits is scaled to 8: integers from 0..65535,
    floats from 0..1.

    Args:
        image: of any mode.
        img_size: height and width of the result.
        channels: 1 for grey, 3 for colour.

    Returns:
        uint8 `[img_size, img_size, channels]`, and whether the shape of the image changed.

    Raises:
        ValueError: grey values outside of their range.
    """
    changed = image.size != (img_size, img_size)
    mode = "L" if channels == 1 else "RGB"
    if changed:
        image.draft(None, (2 * img_size, 2 * img_size))  # a large JPEG decodes faster when smaller
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith(("I", "F")):
        image = _to_8_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode != mode:
        image = image.convert(mode)
    if changed:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        image = image.resize((img_size, img_size), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(img_size, img_size, channels), changed


def _to_8_bits(image: Image.Image) -> Image.Image:
    """A grey image of mode I;16, I or F in mode L."""
    values = np.asarray(image)
    low, high, white = values.min(), values.max(), 1 if image.mode == "F" else 65_535
    if not (low >= 0 and high <= white):  # or NaN
        raise ValueError(
            f"its grey values run from {low:g} to {high:g}; mode {image.mode} needs 0 to {white}"
        )
    if image.mode == "I" and 0 < high <= 255:  # nothing in the file says which
        raise ValueError(f"its 32-bit grey values, up to {high}, may mean 8 or 16 bits")
    return Image.fromarray(np.rint(values * (255 / white)).astype(np.uint8))


def to_pillow(image: np.ndarray) -> Image.Image:
    """A Pillow image from uint8 `[H, W, C]` with one, three or four channels."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


@contextlib.contextmanager
def strict_decoding() -> Iterator[None]:
    """Refuse images so large that they may be an attack; silence all other warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def check_memory(name: str, shape: tuple[int, ...]) -> None:
    """Raise a DataError if uint8 of this shape takes more than half of this machine's memory."""
    size, memory = math.prod(shape), _memory()
    if 2 * size > memory:
        raise DataError(
            f"{name}: {' x '.join(map(str, shape))} bytes are {size / 1e9:.1f} GB, and training "
            f"needs twice that\nexpected less than this machine's {memory / 1e9:.1f} GB\n"
            "Choose a smaller --img-size (img_size=), or use fewer images."
        )


def stack(crops: Iterable[Crop], n: int, img_size: int, channels: int, name: str) -> np.ndarray:
    """Stack the crops of n images, uint8 `[n, img_size, img_size, channels]`; log the changes.

    Raises:
        DataError: they do not fit into this machine's memory.
    """
    shape = n, img_size, img_size, channels
    check_memory(name, shape)
    what = f"{plural(n, 'image')} of {img_size}x{img_size} in {'grey' if channels == 1 else 'RGB'}"
    _log.info("%s: reading %s (%.1f MB)", name, what, math.prod(shape) / 1e6)
    images, n_changed = np.empty(shape, np.uint8), 0
    for i, (image, changed) in enumerate(crops):
        images[i] = image
        n_changed += changed
    if n_changed:
        changes = plural(n_changed, "image")
        _log.info("%s: cropped %s to the central square, or resized", name, changes)
    return images


def to_dataset(
    images: np.ndarray, labels: Any, class_names: Any, name: str, source: str
) -> Dataset:
    """A Dataset without the classes that have no image, which are logged.

    Raises:
        DataError: as `Dataset.from_arrays`.
    """
    dataset = Dataset.from_arrays(images, labels, class_names, name=name, source=source)
    ids, new_labels = np.unique(dataset.labels, return_inverse=True)
    used_names = [dataset.class_names[i] for i in ids]
    if len(ids) == len(dataset.class_names):
        return dataset
    unused = np.delete(dataset.class_names, ids)
    _log.info("%s: left out classes without images: %s", name, one_line(", ".join(unused)))
    return Dataset.from_arrays(images, new_labels, used_names, name=name, source=source)


def _memory() -> float:
    """Bytes of this machine's memory; infinite if the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return np.inf
