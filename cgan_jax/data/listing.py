"""Which files of a folder are pictures, and of which class and part each of them is.

Opens no picture: folder.py reads them, label_file.py reads label files.
"""

import contextlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from cgan_jax.checks import check_class_names, errors_as, first_names, plural, short_repr
from cgan_jax.data import label_file
from cgan_jax.data.class_names import check_different, in_order
from cgan_jax.errors import ConfigError, DataError

TEST_NAMES = ("test", "val", "valid", "validation")  # of a data set's test part, the best first
HIDDEN = (".", "__MACOSX")  # beginnings of names; zip files from Macs contain the second
_log = logging.getLogger("cgan_jax")


def check_split(split: Any) -> None:
    """Raise a ConfigError for what is neither "train" nor "test"."""
    if not isinstance(split, str) or split not in ("train", "test"):
        raise ConfigError(
            f"split must be train or test, not {short_repr(split)}\nOmit it for train."
        )


class Listing(NamedTuple):
    """The pictures of one part of a folder, sorted by class, then by name.

    Attributes:
        folder: where they are.
        files: their paths.
        labels: the class of each, an index into the names.
        class_names: sorted by name, or by number if all names are numbers.
        test: the folder of the test part; None if there is none.
    """

    folder: Path
    files: list[str]
    labels: list[int]
    class_names: tuple[str, ...]
    test: Path | None = None


def list_pictures(folder: Path) -> Listing:
    """The pictures to train on.

    Raises:
        DataError: the folder cannot be read, a class is empty or has the name of another, or a
            label file does not fit the pictures.
    """
    suffixes = _suffixes()
    train, test, others = _parts(folder, suffixes)
    if others:
        read = f"train and {test.name}" if test else "train alone"
        _log.info("%s: reading %s, not %s", folder, read, first_names(others))
    classes = _classes(train, suffixes)
    check_different(list(classes), str(train))
    if empty := [name for name, files in classes.items() if not files]:
        raise DataError(
            f"{train}: {plural(len(empty), 'class holds', 'classes hold')} no image: "
            f"{first_names(empty)}\nexpected the images of a class, such as .png or .jpg files\n"
            "Name the folder whose sub-folders are the classes, and remove empty ones."
        )
    if {"train"} <= set(classes) <= {"train", *TEST_NAMES}:
        told = "%s: read as classes: %s; a part of the data would have one sub-folder per class"
        _log.info(told, train, first_names(list(classes)))
    return _listing(train, classes, tuple(classes))._replace(test=test)


def list_test_pictures(folder: Path, train: Listing) -> Listing:
    """The pictures to test with, which have the class names of those to train on.

    Raises:
        DataError: the test part is missing, cannot be read, or has a class of its own.
    """
    if train.test is None:
        raise DataError(
            f"{folder} has no test part\nexpected the sub-folders train and test, each with one "
            "sub-folder per class\nHold out some of the training images instead."
        )
    classes = _classes(train.test, _suffixes())
    unknown = [name for name, files in classes.items() if files and name not in train.class_names]
    if unknown:
        raise DataError(
            f"{train.test} has {plural(len(unknown), 'class', 'classes')} that {train.folder} "
            f"lacks: {first_names(unknown)}\nexpected the same classes\nRename or remove them."
        )
    return _listing(train.test, classes, train.class_names)


def test_folder(folder: Path) -> Path | None:
    """The sub-folder with the test part, if there is one.

    Raises:
        DataError: the folder cannot be read.
    """
    return _parts(folder, _suffixes())[1]


def _listing(folder: Path, classes: dict[str, list[str]], names: tuple[str, ...]) -> Listing:
    rows = [(file, i) for i, name in enumerate(names) for file in classes.get(name, ())]
    return Listing(folder, [file for file, _ in rows], [i for _, i in rows], names)


def _parts(folder: Path, suffixes: Iterable[str]) -> tuple[Path, Path | None, list[str]]:
    """The folders with the training and the test part, and the names of others beside them.

    Without parts, the folder itself is the training part.
    """
    files, folders = _scan(folder)
    train = folder / "train"
    if (
        label_file.find(folder, files)
        or train.name not in folders
        or not _has_classes(train, suffixes)
    ):
        return folder, None, []
    tests = [name for name in TEST_NAMES if name in folders]
    usable = [name for name in tests if _has_classes(folder / name, suffixes)]
    others = [name for name in folders if name not in ("train", *usable[:1])]
    return train, folder / usable[0] if usable else None, others


def _has_classes(folder: Path, suffixes: Iterable[str]) -> bool:
    files, folders = _scan(folder)
    has_pictures = any(_suffix(file) in suffixes for file in files)
    return label_file.find(folder, files) is not None or (bool(folders) and not has_pictures)


def _classes(folder: Path, suffixes: Iterable[str]) -> dict[str, list[str]]:
    """The pictures of each class, in the order of classes; there may be none of a class."""
    files, folders = _scan(folder)
    if labels := label_file.find(folder, files):
        return label_file.read(labels, _walk(folder, suffixes))
    if not folders:
        content = "has no sub-folders" if not files else "holds no sub-folders, but files"
        raise DataError(
            f"{folder} {content}\nexpected one sub-folder of images per class, or a file "
            f"{label_file.CSV} of file names and classes\n"
            f"Move the images into sub-folders, such as {folder / 'name of the class'}."
        )
    classes, n_skipped = {}, len(files)
    for name in in_order(check_class_names(folders, str(folder))):
        files, others = _scan(folder / name)
        pictures = [os.path.join(folder, name, f) for f in files if _suffix(f) in suffixes]
        n_skipped += len(files) + len(others) - len(pictures)
        classes[name] = pictures
    if n_skipped:
        skipped = plural(n_skipped, "file or folder", "files or folders")
        _log.info("%s: skipped %s, not an image by suffix", folder, skipped)
    return classes


def _scan(folder: Path) -> tuple[list[str], list[str]]:
    """The sorted names of the files and of the folders in a folder, without hidden ones."""
    files: list[str] = []
    folders: list[str] = []
    with _read_errors(folder), os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith(HIDDEN):
                (folders if _is_folder(entry) else files).append(entry.name)
    return sorted(files), sorted(folders)


def _walk(folder: Path, suffixes: Iterable[str]) -> list[str]:
    """The paths of all pictures in a folder and the folders in it, without hidden ones."""

    def fail(error: OSError) -> None:
        raise error

    pictures = []
    with _read_errors(folder):
        for place, folders, files in os.walk(folder, onerror=fail):
            folders[:] = sorted(name for name in folders if not name.startswith(HIDDEN))
            pictures += [os.path.join(place, f) for f in files if _suffix(f) in suffixes]
    return sorted(path for path in pictures if not os.path.basename(path).startswith("."))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _suffixes() -> set[str]:
    """Those of the image files that Pillow reads."""
    return {s for s, kind in Image.registered_extensions().items() if kind in Image.OPEN}


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _read_errors(folder: Path) -> contextlib.AbstractContextManager[None]:
    then = (
        "expected a folder that you may read, with one sub-folder of images per class\n"
        "Name another, or an .npz file."
    )
    return errors_as(DataError, f"cannot read the folder {folder}", then, OSError)
