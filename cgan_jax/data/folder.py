"""A folder with one sub-folder a class as a source, of whatever picture files Pillow reads."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image

from cgan_jax.checks import as_directory, one_line
from cgan_jax.data import pictures
from cgan_jax.data.dataset import Dataset
from cgan_jax.errors import DataError

_log = logging.getLogger("cgan_jax")


def load_folder(
    path: str | PathLike[str], img_size: int | None = None, channels: int | None = None
) -> Dataset:
    """Load the pictures of a folder. The names of its sub-folders are those of the classes.

    Classes are in the order of their names, or of their numbers if all are; pictures in the order
    of theirs. Nested folders, and files that are no pictures by their suffix, are passed over.

    Args:
        path: the folder.
        img_size: height and width that the central square of each picture is resized to; by default
            their own, if the shorter side of all is the same.
        channels: 1 for grey, 3 for colour; by default 3 if one of them has colour.

    Returns:
        uint8 `[N, img_size, img_size, channels]`, named as the folder.

    Raises:
        ConfigError: a size or number of channels that cannot be.
        DataError: no such folder, a class without pictures, a broken picture, pictures of several
            sizes without `img_size`, or more of them than this machine can hold.
    """
    pictures.check_wishes(img_size, channels)
    folder = as_directory(path, "the data's folder")
    name = os.path.basename(os.path.abspath(folder)) or "pictures"
    classes = _classes(folder)
    files = [file for found in classes.values() for file in found]
    with pictures.strictly(), ThreadPoolExecutor() as pool:
        sides, colours = zip(*pool.map(_look, files), strict=True)
        channels = channels or (3 if any(colours) else 1)
        side = img_size or _own_size(Counter(sides), folder)
        images = pictures.stack(
            _squares(pool, files, side, channels), len(files), side, channels, name
        )
    labels = np.repeat(np.arange(len(classes)), [len(found) for found in classes.values()])
    return pictures.dataset(images, labels, tuple(classes), name, f"the folder {folder}")


def _classes(folder: Path) -> dict[str, list[Path]]:
    """The picture files of each class."""
    suffixes = {s for s, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    try:
        if folder.is_file():
            raise NotADirectoryError("it is a file")
        entries = _visible(folder.iterdir())
        places = [entry for entry in entries if entry.is_dir()]
        inner = {place.name: _visible(place.iterdir()) for place in places}
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"cannot read the folder {folder}: {one_line(error)}\n"
            "expected one that you may read, with a sub-folder of pictures for each class\n"
            "Name another, or an .npz file."
        ) from error
    if all(name.isdecimal() for name in inner):
        inner = {name: inner[name] for name in sorted(inner, key=lambda name: (int(name), name))}
    found = {
        name: [file for file in files if file.suffix.lower() in suffixes and file.is_file()]
        for name, files in inner.items()
    }
    if empty := [name for name, files in found.items() if not files]:
        raise DataError(
            f"{folder / empty[0]} holds no picture\n"
            "expected the pictures of a class, as .png or .jpg files\n"
            "Name the folder whose sub-folders are the classes, and take away empty ones."
        )
    if not found:
        what = "has no sub-folders" if not entries else "holds no sub-folders, but files"
        raise DataError(
            f"{folder} {what}\nexpected one for each class, with its pictures\n"
            f"Put the pictures into sub-folders, as {folder / 'name of the class'}."
        )
    passed = len(entries) - len(places) + sum(len(inner[name]) - len(found[name]) for name in found)
    if passed:
        _log.info("%s: passed over %d files or folders that are no pictures", folder, passed)
    return found


def _visible(entries: Iterable[Path]) -> list[Path]:
    return sorted(entry for entry in entries if not entry.name.startswith("."))


def _look(file: Path) -> tuple[int, bool]:
    """The shorter side of a picture, and whether it has colour; its pixels are not read."""
    try:
        with Image.open(file) as image:
            return min(image.size), image.mode not in pictures.GREY
    # Pillow's many formats each raise errors of their own on broken files.
    except Exception as error:
        raise _broken(file, error) from error


def _squares(
    pool: ThreadPoolExecutor, files: list[Path], img_size: int, channels: int
) -> Iterator[tuple[np.ndarray, bool]]:
    # A generator, so that nothing is read before its first item is asked for.
    yield from pool.map(lambda file: _square(file, img_size, channels), files)


def _square(file: Path, img_size: int, channels: int) -> tuple[np.ndarray, bool]:
    try:
        with Image.open(file) as image:
            return pictures.squared(image, img_size, channels)
    except Exception as error:  # as in _look
        raise _broken(file, error) from error


def _broken(file: Path, error: Exception) -> DataError:
    return DataError(
        f"{file} cannot be read: {one_line(error)}\n"
        "expected a whole picture of 8 bits a channel\nMend it, or take it away."
    )


def _own_size(sides: Counter[int], folder: Path) -> int:
    if len(sides) > 1:
        common = sides.most_common(1)[0][0]
        raise DataError(
            f"the pictures in {folder} are of {len(sides)} sizes, their shorter sides from "
            f"{min(sides)} to {max(sides)} pixels\nexpected one size, or to be told which\n"
            f"Give one with --img-size (img_size=); {common} is the most common, 32 trains fast."
        )
    return pictures.own_size(next(iter(sides)), str(folder))
