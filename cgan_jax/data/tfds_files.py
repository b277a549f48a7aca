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
from cgan_jax.data import idx, square_images
from cgan_jax.data.idx import Arrays
from cgan_jax.data.spec import Spec
from cgan_jax.data.square_images import Crop
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
    images, labels, _ = read_squares(spec.name, split, directory, n)
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


def read_squares(
    name: str,
    split: str,
    directory: Path,
    n: int,
    img_size: int | None = None,
    channels: int | None = None,
    hint: str = "",
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The first n images and labels of a prepared split, as TFDS keeps them, and the class names.

    Images are uint8 `[n, img_size, img_size, channels]`; see `load_tfds`.

    Raises:
        DataError: as `load_tfds`; `hint` ends the message for broken files.
    """
    what = f"cannot read the TFDS files in {directory}"
    then = f"expected intact files, as TFDS writes them with file_format={_READABLE!r}{hint}"
    # array_record, protobuf and Pillow each raise errors of their own for broken files.
    with errors_as(DataError, what, then), quiet(), square_images.strict_decoding():
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(directory)
        features = dict(builder.info.features or {})
        # Of several images, the main one.
        keys = (*(builder.info.supervised_keys or ()), *features)
        image_keys, label_keys = (
            [key for key in keys if isinstance(features.get(key), kind)]
            for kind in (tfds.features.Image, tfds.features.ClassLabel)
        )
        if not image_keys or not label_keys:
            raise DataError(
                f"{name} holds no labelled images, but {one_line(', '.join(features), 80)}\n"
                "expected an image and a class label\nName another data set."
            )
        image_key, label_key = image_keys[0], label_keys[0]
        height, width, depth = features[image_key].shape
        if img_size is None and None in (height, width):
            raise DataError(
                f"the images of {name} have several sizes\nexpected an explicit size\n"
                "Choose one with --img-size (img_size=), such as 32."
            )
        side = img_size or square_images.native_size(min(height, width), name)
        channels = channels or min(depth, 3)
        source = builder.as_data_source(split, decoders={image_key: tfds.decode.SkipDecoding()})
        labels = np.empty(n, np.int64)

        def crops() -> Iterator[Crop]:
            for chunk in (range(i, min(i + _ROWS_AT_ONCE, n)) for i in range(0, n, _ROWS_AT_ONCE)):
                for i, row in zip(chunk, source.__getitems__(chunk), strict=True):
                    labels[i] = row[label_key]
                    with Image.open(io.BytesIO(row[image_key])) as image:
                        yield square_images.center_crop(image, side, channels)

        images = square_images.stack(crops(), n, side, channels, name)
        return images, labels, features[label_key].names


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
