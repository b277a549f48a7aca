"""A data set in memory from many pictures: parallel decoding, memory, and what users are told.

crops.py has what becomes of each picture.
"""

import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, islice
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from cgan_jax.checks import first_names, plural
from cgan_jax.data.cache import default_directory
from cgan_jax.data.crops import MODES, Crop, PictureFormat
from cgan_jax.data.dataset import Dataset, Fill
from cgan_jax.data.mapped import empty_images, empty_on_disk
from cgan_jax.errors import DataError

ProgressFn: TypeAlias = Callable[[int, int], object]  # of the pictures that are done, and of all
_AT_ONCE = 1024  # pictures that are passed to the threads
_PER_TASK = 8  # a task for each would cost as much as decoding a small picture
_log = logging.getLogger("cgan_jax")
T = TypeVar("T")
R = TypeVar("R")


class Stacked(NamedTuple):
    """The arrays of the pictures that could be read.

    Attributes:
        images: uint8 `[N, height, width, channels]`.
        unreadable: the reasons why others could not be read, by position.
        n_changed: how many were cropped or resized.
    """

    images: np.ndarray
    unreadable: dict[int, str]
    n_changed: int


def parallel(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """The results of `work` on each item, in order, computed in threads.

    Only some items and results are kept at a time. Pillow decodes without Python's lock.
    """

    def work_on(part: list[T]) -> list[R]:
        return [work(item) for item in part]

    rows = iter(items)
    with ThreadPoolExecutor() as pool:
        while window := list(islice(rows, _AT_ONCE)):
            parts = [window[i : i + _PER_TASK] for i in range(0, len(window), _PER_TASK)]
            yield from chain.from_iterable(pool.map(work_on, parts))


def stack(
    crop: Callable[[T], Crop | str],
    items: Iterable[T],
    n: int,
    picture_format: PictureFormat,
    name: str,
    on_progress: ProgressFn | None = None,
) -> Stacked:
    """Decode n pictures, in parallel, into one array.

    Args:
        crop: makes the array of an item; or says why it cannot be read.
        items: n of them, read as they are needed.
        n: how many there are.
        picture_format: what `crop` makes.
        name: the data set's, for messages.
        on_progress: called as the work proceeds.

    Raises:
        RunError: they fit neither into this machine's memory nor on its disk.
    """
    shape = n, *picture_format.size, picture_format.channels
    mode = {"L": "grey"}.get(MODES[shape[3]], MODES[shape[3]])
    what = f"{plural(n, 'image')} of {shape[1]}x{shape[2]} in {mode}"
    _log.info("%s: reading %s (%.1f MB)", name, what, math.prod(shape) / 1e6)
    images, n_changed, n_read = _room_for(shape, name), 0, 0
    unreadable: dict[int, str] = {}
    for i, result in enumerate(parallel(crop, items)):
        if isinstance(result, str):
            unreadable[i] = result
        else:
            images[n_read] = result.image
            n_changed += result.changed
            n_read += 1
        if on_progress and (i + 1 == n or i % 100 == 99):
            on_progress(i + 1, n)
    return Stacked(images[:n_read], unreadable, n_changed)


def _room_for(shape: tuple[int, ...], name: str) -> np.ndarray:
    """An array for pictures: in memory, or in a file if they take much of it."""
    if 2 * math.prod(shape) <= machine_memory():
        return empty_images(shape)
    folder = default_directory() / "pictures"
    _log.info("%s: the images are kept in %s, since they exceed half of the memory", name, folder)
    return empty_on_disk(shape, folder)


def to_dataset(
    images: np.ndarray,
    labels: Any,
    class_names: Any,
    name: str,
    source: str,
    background: Fill,
    *,
    keep: Any = None,
) -> Dataset:
    """A Dataset of the classes that have an image; others, and those with one image, are logged.

    Args:
        images: uint8 `[N, H, W, C]`.
        labels: integers `[N]`.
        class_names: of all classes.
        name: the name of the data set.
        source: one line that says where the arrays come from.
        background: what transparent pixels became.
        keep: of a test part, the labels of the training part, whose classes are the classes.

    Raises:
        DataError: as `Dataset.from_arrays`; also if a class is not among those to keep.
    """
    dataset = Dataset.from_arrays(images, labels, class_names, name=name, source=source)
    names, counts = dataset.class_names, Counter(dataset.labels.tolist())
    ids = np.unique(dataset.labels if keep is None else keep)
    if others := [names[i] for i in sorted(counts) if i not in ids]:
        raise DataError(
            f"{source} has {plural(len(others), 'test class', 'test classes')} without training "
            f"images: {first_names(others)}\nexpected the same classes\nRemove them."
        )
    if len(ids) < len(names):
        unused = [name for i, name in enumerate(names) if i not in ids]
        _log.info("%s: left out classes without images: %s", name, first_names(unused))
        dataset = Dataset.from_arrays(
            images,
            np.searchsorted(ids, dataset.labels),
            [names[i] for i in ids],
            name=name,
            source=source,
        )
    single = [names[i] for i in ids if counts[i] == 1]
    if single and keep is None:
        _log.info("%s: there is only one image of %s", name, first_names(single))
    return replace(dataset, background=background)


def change_notices(name: str, n_changed: int) -> list[str]:
    """The notices about cropped images, if there are any."""
    if not n_changed:
        return []
    return [f"{name}: cropped {plural(n_changed, 'image')} to the centre, or resized"]


def tell(notices: Iterable[str]) -> None:
    """Log notices, a line each."""
    for notice in notices:
        _log.info("%s", notice)


def machine_memory() -> float:
    """Bytes of this machine's memory; infinite if the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return np.inf
