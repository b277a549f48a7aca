"""Decoded folders of pictures in the user's cache directory, so that a second start is fast.

A broken or read-only cache costs time and one log line, never an error. There is one entry for each
part of a folder; those of folders that are gone are removed.
"""

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL

from cgan_jax.checks import one_line
from cgan_jax.data.cache import default_directory
from cgan_jax.data.crops import Options
from cgan_jax.data.dataset import Fill
from cgan_jax.data.mapped import read_array
from cgan_jax.errors import CGANError
from cgan_jax.files import atomic_write

_FORMAT = 3
_WORTH_SECONDS = 1.0  # that reading took
_log = logging.getLogger("cgan_jax")


class Pictures(NamedTuple):
    """Images uint8 `[N, H, W, C]`, their labels, the notices about them, their background."""

    images: np.ndarray
    labels: list[int]
    notices: list[str]
    background: Fill = None


def fingerprint(folder: Path, files: Iterable[str], *facts: Any) -> str:
    """A hash of the places in a folder, sizes and times of files in order, and of other facts."""
    digest = hashlib.sha256(repr((_FORMAT, PIL.__version__, facts)).encode())
    for file in files:
        digest.update(f"{file.removeprefix(str(folder))}\0".encode(errors="surrogateescape"))
        with contextlib.suppress(OSError):  # of a link to nothing
            about = os.stat(file)
            digest.update(f"{about.st_size}\0{about.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def load_or_read(
    folder: Path, split: str, mark: str, options: Options, read: Callable[[], Pictures]
) -> Pictures:
    """The pictures of a part of a folder; those that take long to read are kept."""
    if pictures := load(folder, split, mark, options):
        return pictures
    began = time.monotonic()
    pictures = read()
    if time.monotonic() - began >= _WORTH_SECONDS:
        store(folder, split, mark, options, pictures)
    return pictures


def load(folder: Path, split: str, mark: str, options: Options) -> Pictures | None:
    """The pictures of a part of a folder, if its fingerprint and the options are the given ones.

    An option may be what was asked for or what was decided then: a run that is resumed asks for it.
    """
    try:
        entry = _entry(folder, split)
        with open(entry, "rb") as file, np.load(file, allow_pickle=False) as saved:
            about = json.loads(str(saved["about"]))
            if about["mark"] != mark:  # or of an earlier format
                return None
            wanted = json.loads(json.dumps(options))  # with lists, as what was read
            pairs = zip(wanted, about["asked"], about["decided"], strict=True)
            if any(want not in pair for want, *pair in pairs):
                return None
            images = read_array(entry, saved.zip, "images.npy")
            labels = saved["labels"].tolist()
            pictures = Pictures(images, labels, about["notices"], about["background"])
        _log.info("%s: %s images from the cache %s", folder, f"{len(pictures.labels):,}", entry)
        return pictures
    except FileNotFoundError:
        return None
    except Exception as error:  # of many kinds
        _log.info("the cached copy of %s is unusable (%s): reading it", folder, one_line(error, 99))
        return None


def store(folder: Path, split: str, mark: str, options: Options, pictures: Pictures) -> None:
    """Keep the pictures of a part of a folder, instead of an older copy."""
    *size, channels = pictures.images.shape[1:]
    about = {
        "folder": str(folder.resolve()),
        "mark": mark,
        "asked": options,
        "decided": Options((size[0], size[1]), channels, pictures.background or options.background),
        "notices": pictures.notices,
        "background": pictures.background,
    }
    try:
        entry = _entry(folder, split)
        _remove_orphans(entry.parent)
        with atomic_write(entry) as temporary:
            np.savez(
                temporary,
                about=json.dumps(about),
                images=pictures.images,
                labels=np.array(pictures.labels, np.int32),
            )
    except (CGANError, OSError) as error:
        _log.info("cannot keep the images of %s: %s", folder, one_line(error, 120))


def _entry(folder: Path, split: str) -> Path:
    name = hashlib.sha256(f"{folder.resolve()}\0{split}".encode()).hexdigest()[:32]
    return default_directory() / "pictures" / f"{name}.npz"


def _remove_orphans(directory: Path) -> None:
    """Remove the entries of folders that are gone, and what is not an entry."""
    for entry in directory.glob("[!.]*.npz"):  # not what another process is writing
        with contextlib.suppress(OSError):
            try:
                with open(entry, "rb") as file, np.load(file, allow_pickle=False) as saved:
                    is_orphan = not os.path.isdir(json.loads(str(saved["about"]))["folder"])
            except Exception:  # of many kinds: it is broken
                is_orphan = True
            if is_orphan:
                entry.unlink()
