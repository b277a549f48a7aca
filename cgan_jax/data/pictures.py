"""Pictures of any size and mode to square arrays: what the sources of one's own data share.

Where the pictures come from stands in folder.py, npz.py and tfds_named.py.
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

from cgan_jax.checks import as_int, check_int, one_line, short_repr
from cgan_jax.data.dataset import Dataset
from cgan_jax.errors import ConfigError, DataError

LARGEST = 128  # pixels of a side, if none is asked for: beyond that the networks become huge
GREY = ("1", "L", "LA")
_DEEP = ("I", "F")  # modes that begin so have more than 8 bits a channel
_log = logging.getLogger("cgan_jax")


def check_wishes(img_size: Any, channels: Any) -> None:
    """Raises ConfigError for what a user cannot ask for; see `load_folder`."""
    if img_size is not None:
        check_int("img_size", img_size, 1, hint="Omit it for the pictures' own size.")
    if channels is not None and as_int(channels) not in (1, 3):
        raise ConfigError(
            f"channels must be 1 (grey) or 3 (colour), not {short_repr(channels)}\n"
            "Omit it for what the pictures have."
        )


def own_size(side: int, name: str) -> int:
    """The size of pictures whose shorter sides all are this long, where no other is asked for.

    Raises:
        DataError: it is too large for networks whose layers are all fully connected.
    """
    if side > LARGEST:
        raise DataError(
            f"the pictures of {name} are {side} pixels wide, which makes for huge networks\n"
            f"expected at most {LARGEST}, or to be told another size\n"
            f"Give one with --img-size (img_size=): 32 trains fast; {side} if you mean it."
        )
    return side


def squared(image: Image.Image, img_size: int, channels: int) -> tuple[np.ndarray, bool]:
    """A picture's central square at another size, and whether that changed its shape.

    It is turned as its camera says; what is transparent becomes white.

    Args:
        image: of 8 bits a channel.
        img_size: height and width of the result.
        channels: 1 for grey, 3 for colour.

    Returns:
        uint8 `[img_size, img_size, channels]`.

    Raises:
        ValueError: it has more bits a channel.
    """
    changed = image.size != (img_size, img_size)
    mode = "L" if channels == 1 else "RGB"
    if image.mode.startswith(_DEEP):
        raise ValueError(f"its mode is {image.mode}; expected 8 bits a channel")
    if changed:
        image.draft(None, (2 * img_size, 2 * img_size))  # a large JPEG decodes faster when smaller
    ImageOps.exif_transpose(image, in_place=True)
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


def squares(images: np.ndarray, img_size: int, channels: int) -> Iterator[tuple[np.ndarray, bool]]:
    """`squared` for images in an array, uint8 `[N, H, W, C]` with one, three or four channels."""
    if images.shape[1:] == (img_size, img_size, channels):
        yield from ((image, False) for image in images)
        return
    for image in images:
        yield squared(picture(image), img_size, channels)


def picture(image: np.ndarray) -> Image.Image:
    """An image as Pillow has it, from uint8 `[H, W, C]` with one, three or four channels."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


@contextlib.contextmanager
def strictly() -> Iterator[None]:
    """Refuse pictures so large that they may be an attack, and say nothing of smaller oddities."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def check_memory(name: str, shape: tuple[int, ...]) -> None:
    """Raises DataError where uint8 of this shape take more than half of this machine's memory."""
    size, memory = math.prod(shape), _memory()
    if 2 * size > memory:
        raise DataError(
            f"{name}: {' x '.join(map(str, shape))} bytes are {size / 1e9:.1f} GB, and training "
            f"needs twice that\nexpected less than this machine's {memory / 1e9:.1f} GB\n"
            "Give a smaller --img-size (img_size=), or fewer pictures."
        )


def stack(
    pictures: Iterable[tuple[np.ndarray, bool]], n: int, img_size: int, channels: int, name: str
) -> np.ndarray:
    """What `squared` made of each of n pictures as one array; tells how many it changed.

    Raises:
        DataError: there are too many for this machine's memory.
    """
    shape = n, img_size, img_size, channels
    check_memory(name, shape)
    what = f"{n:,} pictures of {img_size}x{img_size} in {'grey' if channels == 1 else 'colour'}"
    _log.info("%s: reading %s (%.1f MB)", name, what, math.prod(shape) / 1e6)
    images, n_changed = np.empty(shape, np.uint8), 0
    for i, (image, changed) in enumerate(pictures):
        images[i] = image
        n_changed += changed
    if n_changed:
        _log.info("%s: %s of them were cropped to the central square or resized", name, n_changed)
    return images


def dataset(images: np.ndarray, labels: Any, class_names: Any, name: str, source: str) -> Dataset:
    """A Dataset without the classes that have no picture; tells of those.

    Raises:
        DataError: as `Dataset.from_arrays`.
    """
    made = Dataset.from_arrays(images, labels, class_names, name=name, source=source)
    used, new_labels = np.unique(made.labels, return_inverse=True)
    names = made.class_names
    if len(used) < len(names):
        empty = [each for i, each in enumerate(names) if i not in set(used.tolist())]
        kept = [names[i] for i in used]
        _log.info("%s: left out classes of no picture: %s", name, one_line(", ".join(empty)))
        made = Dataset.from_arrays(images, new_labels, kept, name=name, source=source)
    return made


def _memory() -> float:
    """Bytes of this machine's memory; infinite where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return np.inf
