"""A directory that TFDS prepared as a source: finding and reading it without TensorFlow.

tfds_download.py downloads and prepares one. TFDS shuffles when it prepares a data set; a table has
the published order of each one whose contents are verified.
"""

import contextlib
import io
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cgan_jax.checks import as_path, errors_as, one_line, plural
from cgan_jax.data import background as backgrounds
from cgan_jax.data import crops, idx, stack
from cgan_jax.data.crops import NATIVE, Crop, Options, PictureFormat
from cgan_jax.data.dataset import Fill
from cgan_jax.data.idx import Arrays
from cgan_jax.data.spec import Spec
from cgan_jax.data.stack import ProgressFn
from cgan_jax.errors import DataError

_INFO = "dataset_info.json"
_READABLE = "array_record"
_ROWS_AT_ONCE = 1_000


def usual_root() -> Path:
    """The directory that TFDS uses by default.

    Raises:
        DataError: not a usable path.
    """
    directory = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return as_path(directory, "TFDS_DATA_DIR")


def find(name: str, directory: Path) -> Path | None:
    """The prepared version directory: `directory` itself or the newest in it; None without one.

    Raises:
        OSError: the directory cannot be read.
    """
    place = directory / name
    entries = place.iterdir() if place.is_dir() else ()
    versions = [path for path in entries if re.fullmatch(r"\d+(\.\d+)*", path.name)]
    versions.sort(key=lambda path: [int(n) for n in path.name.split(".")], reverse=True)
    prepared = (path for path in (directory, *versions) if (path / _INFO).is_file())
    return next(prepared, None)


def read(spec: Spec, split: str, directory: Path) -> Arrays:
    """Read and verify a split of a prepared version directory, in the published order.

    Raises:
        DataError: the directory holds another data set, is in a format that needs TensorFlow,
            lacks the split, is broken, or its contents are not the published ones.
    """
    n, n_rows = spec.splits[split].shape[0], n_examples(spec.name, directory).get(split, 0)
    if n_rows != n:
        raise DataError(
            f"{directory} has {plural(n_rows, 'example')} in its {split} split\nexpected {n:,}"
        )
    images, labels, _, _ = read_images(spec.name, split, directory, n)
    arrays = Arrays(images[..., 0], labels.astype(np.uint8))
    with np.load(spec.order_file) as tables:
        arrays = restore_order(arrays, tables[split])
    idx.verify(spec, split, arrays, str(directory))
    return arrays


def restore_order(arrays: Arrays, positions: np.ndarray) -> Arrays:
    """Undo TFDS's shuffling, given the published position of each example, sorted by content.

    This does not check that the examples are the published ones: verify the result.
    """
    rows = np.empty(len(positions), np.intp)
    rows[positions] = content_order(arrays)
    return Arrays(arrays.images[rows], arrays.labels[rows])


def content_order(arrays: Arrays) -> np.ndarray:
    """The indices that sort examples by content, images first."""
    # The label is part of the key because some images occur twice with different labels; examples
    # that are equal in both are interchangeable.
    n = len(arrays.labels)
    keys = np.concatenate([arrays.images.reshape(n, -1), arrays.labels.reshape(n, 1)], axis=1)
    return np.argsort(keys.view(f"S{keys.shape[1]}").ravel(), kind="stable")


def read_images(
    name: str,
    split: str,
    directory: Path,
    n: int,
    options: Options = NATIVE,
    hint: str = "",
    on_progress: ProgressFn | None = None,
) -> tuple[np.ndarray, np.ndarray, list[str], Fill]:
    """The first n images and labels of a prepared split, as TFDS keeps them.

    The class names follow, and what transparent pixels became, None if there are none. Images are
    uint8 `[n, height, width, channels]`; see `load_tfds`.

    Raises:
        DataError: as `load_tfds`; `hint` ends the message for broken files.
    """
    with _read_errors(directory, hint), quiet(), crops.strict_decoding():
        source = _Source(name, directory)
        into = source.decide(options)
        labels = np.empty(n, np.int64)

        def images() -> Iterator[bytes]:
            for i, (image, label) in enumerate(source.rows(split, n)):
                labels[i] = label
                yield image

        def crop(image: bytes) -> Crop:
            return crops.center_crop(_decode(image), into)

        stacked = stack.stack(crop, images(), n, into, name, on_progress)
        stack.tell(stack.change_notices(name, stacked.n_changed))
        return stacked.images, labels, source.names, into.background


def read_labels(name: str, split: str, directory: Path, n: int) -> np.ndarray:
    """The first n labels of a prepared split, int64 `[n]`.

    Raises:
        DataError: as `load_tfds`.
    """
    with _read_errors(directory), quiet():
        return np.fromiter((label for _, label in _Source(name, directory).rows(split, n)), int)


class _Source:
    """The labelled images of a prepared version directory.

    Attributes:
        names: of all classes.

    Raises:
        DataError: there are no labelled images.
    """

    def __init__(self, name: str, directory: Path) -> None:
        import tensorflow_datasets as tfds

        self._builder = tfds.builder_from_directory(directory)
        features = dict(self._builder.info.features or {})
        # Of several images, the main one.
        keys = (*(self._builder.info.supervised_keys or ()), *features)
        image_keys, label_keys = (
            [key for key in keys if isinstance(features.get(key), kind)]
            for kind in (tfds.features.Image, tfds.features.ClassLabel)
        )
        if not image_keys or not label_keys:
            raise DataError(
                f"{name} holds no labelled images, but {one_line(', '.join(features), 80)}\n"
                "expected an image and a class label\nName another data set."
            )
        self._name, self._keys = name, (image_keys[0], label_keys[0])
        self._shape: tuple[int | None, int | None, int] = features[image_keys[0]].shape
        self.names: list[str] = features[label_keys[0]].names
        self._decoders = {image_keys[0]: tfds.decode.SkipDecoding()}

    def rows(self, split: str, n: int) -> Iterator[tuple[bytes, int]]:
        """The encoded images and the labels of the first n examples."""
        image_key, label_key = self._keys
        source = self._builder.as_data_source(split, decoders=self._decoders)
        for start in range(0, n, _ROWS_AT_ONCE):
            chunk = range(start, min(start + _ROWS_AT_ONCE, n))
            for row in source.__getitems__(chunk):
                yield row[image_key], row[label_key]

    def decide(self, options: Options) -> PictureFormat:
        """How images become those of a data set, by the training images.

        Raises:
            DataError: they have several sizes, and none is requested.
        """
        height, width, depth = self._shape
        if options.size is None and (height is None or width is None):
            raise DataError(
                f"the images of {self._name} have several sizes\nexpected an explicit size\n"
                "Choose one with --img-size (img_size=), such as 32."
            )
        own = height or 0, width or 0
        size = options.size or crops.native_size([own], self._name)
        channels = options.channels or min(depth, 3)
        sample: list[Image.Image] = []
        if depth == 4 and channels != 4:
            splits = self._builder.info.splits
            split = "train" if "train" in splits else next(iter(splits))
            n = min(backgrounds.N_SAMPLED, splits[split].num_examples)
            sample = [_decode(image) for image, _ in self.rows(split, n)]
        background, notices = backgrounds.choose(options.background, sample, self._name)
        stack.tell(notices)
        return PictureFormat(size, channels, background)


def _decode(image: bytes) -> Image.Image:
    return Image.open(io.BytesIO(image))


def _read_errors(directory: Path, hint: str = "") -> contextlib.AbstractContextManager[None]:
    what = f"cannot read the TFDS files in {directory}"
    then = f"expected intact files, as TFDS writes them with file_format={_READABLE!r}{hint}"
    # array_record, protobuf and Pillow each raise errors of their own for broken files.
    return errors_as(DataError, what, then)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep TFDS from printing, logging and drawing progress bars."""
    from tensorflow_datasets.core.utils import tqdm_utils

    logger = logging.getLogger("absl")
    drawing, level = tqdm_utils._active, logger.level
    tqdm_utils.display_progress_bar(False)
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
        tqdm_utils.display_progress_bar(drawing)


def n_examples(name: str, directory: Path) -> dict[str, int]:
    """The number of examples of each split of a prepared version directory.

    Raises:
        DataError: the directory holds another data set, or is in a format that needs TensorFlow.
    """
    path = directory / _INFO
    then = "expected a directory that TFDS has prepared"
    with errors_as(DataError, f"{path} is not a TFDS description", then):
        info: Any = json.loads(path.read_bytes())
        info_name, file_format = info["name"], info.get("fileFormat")
        n_rows = {
            part["name"]: sum(int(n) for n in part.get("shardLengths", ()))
            for part in info.get("splits", ())
        }
    if info_name != name:
        raise DataError(f"{directory} holds the data set {info_name!r}\nexpected {name!r}")
    if file_format != _READABLE:
        raise DataError(
            f"{directory} holds {file_format} files, which need TensorFlow to read\n"
            f"expected {_READABLE} files (TFDS: file_format={_READABLE!r})"
        )
    return n_rows
