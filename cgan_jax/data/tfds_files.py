"""A directory that TFDS prepared as a source: finding it and reading it without TensorFlow.

Downloading and preparing one is in tfds_download.py.
"""

import contextlib
import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cgan_jax.checks import as_directory, one_line
from cgan_jax.data import idx, order
from cgan_jax.data.idx_files import Arrays, verify
from cgan_jax.data.spec import Spec
from cgan_jax.errors import DataError

_INFO = "dataset_info.json"
_READABLE = "array_record"
_ROWS_AT_ONCE = 5_000
# What JSON that was written by others leads to, an infinite number of rows included.
_MALFORMED: tuple[type[Exception], ...] = (OSError, LookupError, TypeError, ValueError)
_MALFORMED += (ArithmeticError, AttributeError, RecursionError)


def usual_root() -> Path:
    """The directory that TFDS uses when it is told none.

    Raises:
        DataError: this user has no home.
    """
    named = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return as_directory(named, "TFDS's directory")


def versions(name: str, root: Path) -> list[Path]:
    """A data set's version directories below TFDS's, prepared or not, the newest first.

    Raises:
        OSError: the directory cannot be read.
    """
    below = root / name
    if not below.is_dir():
        return []
    return sorted((p for p in below.iterdir() if p.name[:1].isdigit()), reverse=True)


def find(name: str, directory: Path) -> Path | None:
    """The prepared version directory that `directory` is or holds (the newest), or None."""
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
    n_rows = n_examples(spec.name, directory).get(split, 0)
    shape = spec.splits[split].shape
    if n_rows != shape[0]:
        raise DataError(
            f"{directory} has {n_rows} examples in its {split} split\nexpected {shape[0]}"
        )
    try:
        with quiet():
            images, labels = _read_rows(split, directory, shape)
    except DataError:
        raise
    # array_record, protobuf and pillow each raise errors of their own on broken files.
    except Exception as error:
        raise DataError(
            f"cannot read the TFDS files in {directory}: {one_line(error)}\n"
            "expected what TFDS writes in its file_format='array_record'"
        ) from error
    idx.check_labels(labels, len(spec.class_names), str(directory))
    arrays = order.restore(Arrays(images, labels), spec.order_file, split)
    verify(spec, split, arrays, str(directory))
    return arrays


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
    """How many examples each split of a prepared version directory has.

    Raises:
        DataError: the directory holds another data set, or is in a format that needs TensorFlow.
    """
    path = directory / _INFO
    try:
        info: Any = json.loads(path.read_bytes())
        found, file_format = info["name"], info.get("fileFormat")
        n_rows = {
            part["name"]: sum(int(n) for n in part.get("shardLengths", ()))
            for part in info.get("splits", ())
        }
    except _MALFORMED as error:
        raise DataError(
            f"{path} is not a TFDS description: {one_line(error)}\n"
            "expected a directory that TFDS has prepared"
        ) from error
    if found != name:
        raise DataError(f"{directory} holds the data set {found!r}\nexpected {name!r}")
    if file_format != _READABLE:
        raise DataError(
            f"{directory} holds {file_format} files, which need TensorFlow to read\n"
            f"expected {_READABLE} files (TFDS: file_format={_READABLE!r})"
        )
    return n_rows


def _read_rows(
    split: str, directory: Path, shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    import tensorflow_datasets as tfds
    from PIL import Image

    source = tfds.builder_from_directory(directory).as_data_source(
        split, decoders={"image": tfds.decode.SkipDecoding()}
    )
    images = np.empty(shape, np.uint8)
    labels = np.empty(shape[0], np.uint8)
    for start in range(0, shape[0], _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, shape[0])
        for i, row in enumerate(source.__getitems__(range(start, stop)), start):
            with Image.open(io.BytesIO(row["image"])) as image:
                if (image.mode, image.size) != ("L", (shape[2], shape[1])):
                    raise DataError(
                        f"{directory}: an image of {split} is {image.mode} {image.size}\n"
                        f"expected L {(shape[2], shape[1])}"
                    )
                images[i] = np.asarray(image)
            labels[i] = row["label"]
    return images, labels
