"""A directory that TFDS prepared as a source: finding and reading it without TensorFlow.

tfds_download.py downloads and prepares one.
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

from cgan_jax.checks import as_path, one_line, plural
from cgan_jax.data import order
from cgan_jax.data.idx_files import Arrays, verify
from cgan_jax.data.spec import Spec
from cgan_jax.errors import CGANError, DataError

_INFO = "dataset_info.json"
_READABLE = "array_record"
_ROWS_AT_ONCE = 1_000
# The errors that arbitrary JSON leads to, an infinite number of rows included.
_MALFORMED: tuple[type[Exception], ...] = (OSError, LookupError, TypeError, ValueError)
_MALFORMED += (ArithmeticError, AttributeError, RecursionError)


def usual_root() -> Path:
    """The directory that TFDS uses by default.

    Raises:
        DataError: not a usable path.
    """
    directory = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return as_path(directory, "TFDS_DATA_DIR")


def versions(name: str, root: Path) -> list[Path]:
    """The version directories of a data set in TFDS's directory, prepared or not, newest first.

    Raises:
        OSError: the directory cannot be read.
    """
    entries = (root / name).iterdir() if (root / name).is_dir() else ()
    paths = [path for path in entries if re.fullmatch(r"\d+(\.\d+)*", path.name)]
    return sorted(paths, key=lambda path: [int(n) for n in path.name.split(".")], reverse=True)


def find(name: str, directory: Path) -> Path | None:
    """The prepared version directory: `directory` itself or the newest in it; None without one."""
    for candidate in (directory, *versions(name, directory)):
        if (candidate / _INFO).is_file():
            return candidate
    return None


def read(spec: Spec, split: str, directory: Path) -> Arrays:
    """Read and verify a split of a prepared version directory, in the published order.

    Raises:
        DataError: the directory holds another data set, is in a format that needs TensorFlow,
            lacks the split, is broken, or its contents are not the published ones.
    """
    n, height, width = spec.splits[split].shape
    n_rows = n_examples(spec.name, directory).get(split, 0)
    if n_rows != n:
        raise DataError(
            f"{directory} has {plural(n_rows, 'example')} in its {split} split\nexpected {n:,}"
        )
    arrays = Arrays(np.empty((n, height, width), np.uint8), np.empty(n, np.uint8))
    with read_errors(directory):
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(directory)
        for i, (image, label) in enumerate(rows(builder, split, n, "image", "label")):
            if (image.mode, image.size) != ("L", (width, height)):
                raise DataError(
                    f"{directory}: an image of {split} is {image.mode} {image.size}\n"
                    f"expected L {(width, height)}"
                )
            arrays.images[i], arrays.labels[i] = np.asarray(image), label
    arrays = order.restore(arrays, spec.order_file, split)
    verify(spec, split, arrays, str(directory))
    return arrays


def rows(
    builder: Any, split: str, n: int, image_key: str, label_key: str
) -> Iterator[tuple[Image.Image, int]]:
    """The first n images and labels of a prepared split, in the order in which TFDS keeps them."""
    import tensorflow_datasets as tfds

    source = builder.as_data_source(split, decoders={image_key: tfds.decode.SkipDecoding()})
    for start in range(0, n, _ROWS_AT_ONCE):
        for row in source.__getitems__(range(start, min(start + _ROWS_AT_ONCE, n))):
            with Image.open(io.BytesIO(row[image_key])) as image:
                yield image, row[label_key]


@contextlib.contextmanager
def read_errors(directory: Path, hint: str = "") -> Iterator[None]:
    """Turn the errors of reading a prepared directory into ours, and keep TFDS quiet.

    Raises:
        DataError: instead of any error but the library's own; `hint` ends the message.
    """
    try:
        with quiet():
            yield
    except CGANError:
        raise
    # array_record, protobuf and Pillow each raise errors of their own for broken files.
    except Exception as error:
        raise DataError(
            f"cannot read the TFDS files in {directory}: {one_line(error)}\n"
            f"expected intact files, as TFDS writes them with file_format={_READABLE!r}{hint}"
        ) from error


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
    try:
        info: Any = json.loads(path.read_bytes())
        info_name, file_format = info["name"], info.get("fileFormat")
        n_rows = {
            part["name"]: sum(int(n) for n in part.get("shardLengths", ()))
            for part in info.get("splits", ())
        }
    except _MALFORMED as error:
        raise DataError(
            f"{path} is not a TFDS description: {one_line(error)}\n"
            "expected a directory that TFDS has prepared"
        ) from error
    if info_name != name:
        raise DataError(f"{directory} holds the data set {info_name!r}\nexpected {name!r}")
    if file_format != _READABLE:
        raise DataError(
            f"{directory} holds {file_format} files, which need TensorFlow to read\n"
            f"expected {_READABLE} files (TFDS: file_format={_READABLE!r})"
        )
    return n_rows
