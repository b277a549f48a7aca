"""Any labelled image set of TFDS as a source, by its name: prepared, or downloaded and prepared.

Fashion-MNIST, whose contents are known to the bit, is read in tfds_files.py.
"""

import difflib
import io
import logging
import re
import tempfile
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cgan_jax.checks import as_directory, one_line, short_repr
from cgan_jax.data import pictures, tfds_download, tfds_files
from cgan_jax.data.dataset import Dataset
from cgan_jax.data.tensorflow_stand_in import without_tensorflow
from cgan_jax.errors import CGANError, ConfigError, DataError

_ROWS_AT_ONCE = 1_000
_log = logging.getLogger("cgan_jax")


def load_tfds(
    name: str,
    split: str = "train",
    data_dir: str | PathLike[str] | None = None,
    img_size: int | None = None,
    channels: int | None = None,
) -> Dataset:
    """Load a labelled image set of TFDS, of any version that is prepared as array_record.

    What is not prepared yet is downloaded and prepared, without TensorFlow where the data set's
    builder needs no more of it than to open files and to encode images.

    Args:
        name: as TFDS has it, with its configuration if it has some: "mnist", "emnist/letters".
        split: the split's name.
        data_dir: TFDS's data directory, or the prepared version directory itself; by default
            $TFDS_DATA_DIR or ~/tensorflow_datasets.
        img_size: height and width that the central square of each image is resized to; by default
            the shorter of their own.
        channels: 1 for grey, 3 for colour; by default what they have.

    Returns:
        uint8 `[N, img_size, img_size, channels]`, in the order in which TFDS keeps them. Classes
        that no image has are left out.

    Raises:
        ConfigError: an unknown name or split, a size or number of channels that cannot be.
        DataError: it holds no labelled images, is not to be had, or is in a format that needs
            TensorFlow; images of several sizes without `img_size`, or more of them than this
            machine can hold.
    """
    pictures.check_wishes(img_size, channels)
    if not isinstance(name, str) or not re.fullmatch(r"\w+(/[\w.+-]+)?", name):
        raise _unknown(name)
    root = as_directory(data_dir, "data_dir") if data_dir else tfds_files.usual_root()
    try:
        prepared = tfds_files.find(name, root) or _prepare(name, root)
    except OSError as error:
        raise DataError(
            f"cannot look into {root}: {one_line(error)}\nexpected a directory of TFDS\n"
            "Name another with --data-dir (data_dir=)."
        ) from error
    try:
        n_rows = tfds_files.n_examples(name.partition("/")[0], prepared)
    except DataError as error:
        raise DataError(
            f"{error}\nPrepare it so elsewhere, and name that with --data-dir."
        ) from error
    if split not in n_rows:
        known = one_line(", ".join(map(str, n_rows)))
        raise ConfigError(
            f"{name} has no split {short_repr(split)}\nexpected one of {known}\nName one."
        )
    try:
        with tfds_files.quiet(), pictures.strictly():
            images, labels, names = _read(name, split, prepared, n_rows[split], img_size, channels)
    except CGANError:
        raise
    # array_record, protobuf and pillow each raise errors of their own on broken files.
    except Exception as error:
        raise DataError(
            f"cannot read the TFDS files in {prepared}: {one_line(error)}\n"
            "expected images of 8 bits a channel, as TFDS writes them\nPrepare it anew."
        ) from error
    return pictures.dataset(images, labels, names, name, f"TFDS files in {prepared}")


def _prepare(name: str, root: Path) -> Path:
    """Download and prepare a data set below TFDS's directory, as array_record."""
    import tensorflow_datasets as tfds

    base, _, config = name.partition("/")
    if base not in tfds.list_builders(with_community_datasets=False):
        raise _unknown(name)
    try:
        if config and config not in tfds.builder_cls(base).builder_configs:
            raise _unknown(name)
        builder = tfds.builder(name, data_dir=root)
        place = Path(builder.data_path)
        if not place.exists():
            _download(builder)
    except ConfigError:
        raise
    # TFDS lets the errors of its many parts through.
    except Exception as error:
        raise DataError(
            f"{name} is not prepared in {root}, and could not be: {one_line(error)}\n"
            "expected array_record files there, or a network and a builder that needs no "
            "TensorFlow\nConnect and try again; or prepare it elsewhere with "
            "file_format='array_record', and name that with --data-dir (data_dir=)."
        ) from error
    return place


def _download(builder: Any) -> None:
    import tensorflow_datasets as tfds

    files = type(builder).url_infos or {}
    if files:
        tfds_download.probe(next(iter(files)))  # TFDS would try a dead host for minutes
    size = sum(int(info.size) for info in files.values()) / 1e6
    _log.info("downloading %s (%.0f MB) into %s", builder.name, size, builder.data_path)
    with (
        tempfile.TemporaryDirectory(prefix="cgan_jax-") as downloads,
        tfds_files.quiet(),
        without_tensorflow(type(builder)),
    ):
        builder.download_and_prepare(
            download_dir=downloads,
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
            file_format="array_record",
        )


def _unknown(name: Any) -> ConfigError:
    import tensorflow_datasets as tfds

    known = tfds.list_builders(with_community_datasets=False)
    base, _, config = str(name).partition("/")
    if config and base in known:
        found = tfds.builder_cls(base).builder_configs
        near = [f"{base}/{each}" for each in found]
        expected = f"a configuration of {base}" if near else f"{base} alone"
    else:
        near = difflib.get_close_matches(base, known, n=5, cutoff=0.5)
        expected = "a folder, an .npz file, or a name in www.tensorflow.org/datasets/catalog"
    hint = f"; did you mean {one_line(', '.join(near), 100)}?" if near else ""
    return ConfigError(
        f"there is no folder, no file and no TFDS data set {short_repr(name)}{hint}\n"
        f"expected {expected}\nCorrect the name."
    )


def _read(
    name: str, split: str, prepared: Path, n: int, img_size: int | None, channels: int | None
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(prepared)
    features = dict(builder.info.features or {})
    keys = (*(builder.info.supervised_keys or ()), *features)  # of several images, the main one
    found = [
        [key for key in keys if isinstance(features.get(key), kind)]
        for kind in (tfds.features.Image, tfds.features.ClassLabel)
    ]
    if not all(found):
        raise DataError(
            f"{name} holds no labelled images, but {one_line(', '.join(features), 80)}\n"
            "expected an image and a class label\nName another data set."
        )
    image_key, label_key = found[0][0], found[1][0]
    height, width, depth = features[image_key].shape
    if img_size is None and None in (height, width):
        raise DataError(
            f"the images of {name} are of several sizes\nexpected to be told one\n"
            "Give it with --img-size (img_size=), as 32."
        )
    side = img_size or pictures.own_size(min(height, width), name)
    channels = channels or min(depth, 3)
    source = builder.as_data_source(split, decoders={image_key: tfds.decode.SkipDecoding()})
    labels = np.empty(n, np.int64)

    def squares() -> Iterator[tuple[np.ndarray, bool]]:
        for start in range(0, n, _ROWS_AT_ONCE):
            rows = source.__getitems__(range(start, min(start + _ROWS_AT_ONCE, n)))
            for i, row in enumerate(rows, start):
                labels[i] = row[label_key]
                with Image.open(io.BytesIO(row[image_key])) as picture:
                    yield pictures.squared(picture, side, channels)

    return pictures.stack(squares(), n, side, channels, name), labels, features[label_key].names
