"""A folder with one sub-folder per class as a source, of any image files that Pillow reads."""

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image

from cgan_jax.checks import as_path, check_class_names, errors_as, plural
from cgan_jax.data import square_images
from cgan_jax.data.dataset import Dataset
from cgan_jax.data.square_images import Crop
from cgan_jax.errors import DataError

_log = logging.getLogger("cgan_jax")


def load_folder(
    path: str | PathLike[str], img_size: int | None = None, channels: int | None = None
) -> Dataset:
    """Load the images of a folder. The names of its sub-folders are the class names.

    Classes are sorted by name, or by number if all names are numbers; images by file name. Nested
    folders, and files whose suffix is not that of an image, are skipped. Grey of 16 or 32 bits is
    scaled to 8: integers from 0..65535, floats from 0..1.

    Args:
        path: the folder.
        img_size: height and width that the central square of each image is resized to; by default
            the native size, if the shorter sides of all images are equal.
        channels: 1 for grey, 3 for colour; by default 3 if any image has colour.

    Returns:
        uint8 `[N, img_size, img_size, channels]`, named after the folder.

    Raises:
        ConfigError: an invalid size or number of channels.
        DataError: no such folder, a class without images, a class name that is not valid Unicode,
            a broken image, images of several sizes without `img_size`, or more images than this
            machine's memory holds.
    """
    square_images.check_options(img_size, channels)
    folder = as_path(path, "the data folder")
    name = os.path.basename(os.path.abspath(folder)) or "images"
    classes = _list_classes(folder)
    files = [file for class_files in classes.values() for file in class_files]
    with square_images.strict_decoding(), ThreadPoolExecutor() as pool:
        sides, colours = zip(*pool.map(_probe, files), strict=True)
        side = img_size or _common_size(Counter(sides), folder)
        channels = channels or (3 if any(colours) else 1)
        crops = _load_all(pool, files, side, channels)
        images = square_images.stack(crops, len(files), side, channels, name)
    labels = np.repeat(np.arange(len(classes)), [len(files) for files in classes.values()])
    return square_images.to_dataset(images, labels, tuple(classes), name, f"the folder {folder}")


def _list_classes(folder: Path) -> dict[str, list[Path]]:
    """The image files of each class."""
    suffixes = {s for s, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    then = (
        "expected a folder that you may read, with one sub-folder of images per class\n"
        "Name another, or an .npz file."
    )
    unreadable = OSError, RuntimeError  # the latter for circular links
    with errors_as(DataError, f"cannot read the folder {folder}", then, unreadable):
        if folder.is_file():
            raise NotADirectoryError("it is a file")
        entries = _visible(folder.iterdir())
        files = {entry.name: _visible(entry.iterdir()) for entry in entries if entry.is_dir()}
    if not files:
        content = "has no sub-folders" if not entries else "holds no sub-folders, but files"
        raise DataError(
            f"{folder} {content}\nexpected one sub-folder of images per class\n"
            f"Move the images into sub-folders, such as {folder / 'name of the class'}."
        )
    names = list(files)
    if all(name.isdecimal() for name in names):
        names.sort(key=lambda name: (int(name), name))
    classes = {
        name: [file for file in files[name] if file.suffix.lower() in suffixes and file.is_file()]
        for name in check_class_names(names, str(folder))
    }
    if empty := [name for name in names if not classes[name]]:
        raise DataError(
            f"{folder / empty[0]} holds no image\n"
            "expected the images of a class, such as .png or .jpg files\n"
            "Name the folder whose sub-folders are the classes, and remove empty ones."
        )
    n_skipped = len(entries) - len(names) + sum(len(files[n]) - len(classes[n]) for n in names)
    if n_skipped:
        skipped = plural(n_skipped, "file or folder", "files or folders")
        _log.info("%s: skipped %s, not an image by suffix", folder, skipped)
    return classes


def _visible(entries: Iterable[Path]) -> list[Path]:
    return sorted(entry for entry in entries if not entry.name.startswith("."))


def _probe(file: Path) -> tuple[int, bool]:
    """The shorter side of an image, and whether it has colour; its pixels are not decoded."""
    with _open(file) as image:
        return min(image.size), Image.getmodebase(image.mode) != "L"


def _load_all(
    pool: ThreadPoolExecutor, files: list[Path], img_size: int, channels: int
) -> Iterator[Crop]:
    def load(file: Path) -> Crop:
        with _open(file) as image:
            return square_images.center_crop(image, img_size, channels)

    # In a generator, decoding starts only once the first crop is requested.
    yield from pool.map(load, files)


@contextlib.contextmanager
def _open(file: Path) -> Iterator[Image.Image]:
    then = (
        "expected an intact image of 8 bits per channel, or 16- or 32-bit grey in range\n"
        "Repair or remove it."
    )
    # Each of Pillow's many formats raises errors of its own for broken files.
    with errors_as(DataError, f"{file} cannot be read", then), Image.open(file) as image:
        yield image


def _common_size(sides: Counter[int], folder: Path) -> int:
    if len(sides) > 1:
        most_common = sides.most_common(1)[0][0]
        raise DataError(
            f"the images in {folder} have {len(sides)} sizes, their shorter sides from "
            f"{min(sides)} to {max(sides)} pixels\nexpected one size, or an explicit --img-size\n"
            f"Choose one (img_size=): {most_common} is the most common, 32 trains fast."
        )
    return square_images.native_size(next(iter(sides)), str(folder))
