"""Any labelled image set of TFDS as a source, by name: prepared, or downloaded and prepared.

tfds_files.py reads Fashion-MNIST, whose contents are verified.
"""

import difflib
import re
import tempfile
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

from cgan_jax.checks import ImageSize, as_path, errors_as, one_line, short_repr
from cgan_jax.data import crops, stack, tfds_download, tfds_files
from cgan_jax.data.crops import Background
from cgan_jax.data.dataset import Dataset
from cgan_jax.data.stack import ProgressFn
from cgan_jax.errors import ConfigError, DataError


def load_tfds(
    name: str,
    split: str = "train",
    data_dir: str | PathLike[str] | None = None,
    img_size: ImageSize | None = None,
    channels: int | None = None,
    *,
    background: Background = "auto",
    on_progress: ProgressFn | None = None,
) -> Dataset:
    """Load a labelled image set of TFDS, of any version that is prepared as array_record.

    A data set that is not prepared is downloaded and prepared: without TensorFlow if its builder
    uses TensorFlow only to open files and to encode images.

    Args:
        name: its name in TFDS, with its configuration if it has any: "mnist", "emnist/letters".
        split: the name of the split.
        data_dir: TFDS's data directory, or the prepared version directory itself; by default
            $TFDS_DATA_DIR or ~/tensorflow_datasets.
        img_size: height and width, or one number for both, that the central part of each image is
            resized to; by default their own, or a square if that exceeds 128 pixels.
        channels: 1 for grey, 3 for colour, 4 for colour and opacity; by default the number in the
            data set, without opacity.
        background: what transparent pixels become; see `load_folder`.
        on_progress: called as `on_progress(done, total)` while images are decoded.

    Returns:
        uint8 `[N, height, width, channels]`, in the order in which TFDS keeps them. Classes
        without images, in the split train if there is one, are left out.

    Raises:
        ConfigError: an unknown name or split, or an invalid option.
        DataError: no labelled images, no way to get them, or a format that needs TensorFlow;
            images of several sizes without `img_size`, or more of them than this machine's memory
            holds.
    """
    options = crops.check_options(img_size, channels, background)
    prepared = _find(name, data_dir) or _prepare(name, _root(data_dir))
    n_rows = _n_rows(name, prepared)
    if split not in n_rows:
        known = one_line(", ".join(map(str, n_rows)))
        raise ConfigError(
            f"{name} has no split {short_repr(split)}\nexpected one of {known}\nName one."
        )
    hint = "\nDelete it, to prepare it again."
    images, labels, names, fill = tfds_files.read_images(
        name, split, prepared, n_rows[split], options, hint, on_progress
    )
    keep = None
    if split != "train" and n_rows.get("train"):
        keep = tfds_files.read_labels(name, "train", prepared, n_rows["train"])
    source = f"TFDS files in {prepared}"
    return stack.to_dataset(images, labels, names, name, source, fill, keep=keep)


def split_sizes(name: str, data_dir: str | PathLike[str] | None = None) -> dict[str, int]:
    """The number of examples of each split of a data set; none while it is not prepared.

    Raises:
        ConfigError: not a name in TFDS.
        DataError: the directory cannot be read, or holds something else.
    """
    prepared = _find(name, data_dir)
    return _n_rows(name, prepared) if prepared else {}


def _root(data_dir: str | PathLike[str] | None) -> Path:
    return as_path(data_dir, "data_dir") if data_dir else tfds_files.usual_root()


def _find(name: str, data_dir: str | PathLike[str] | None) -> Path | None:
    """The prepared version directory of a data set."""
    if not isinstance(name, str) or not re.fullmatch(r"\w+(/[\w.+-]+)?", name):
        raise _unknown(name)
    root = _root(data_dir)
    then = "expected a directory of TFDS\nName another with --data-dir (data_dir=)."
    with errors_as(DataError, f"cannot read {root}", then, OSError):
        return tfds_files.find(name, root)


def _n_rows(name: str, prepared: Path) -> dict[str, int]:
    try:
        return tfds_files.n_examples(name.partition("/")[0], prepared)
    except DataError as error:
        raise DataError(
            f"{error}\nPrepare it elsewhere, and name that directory with --data-dir (data_dir=)."
        ) from error


def _prepare(name: str, root: Path) -> Path:
    """Download and prepare a data set below TFDS's directory, as array_record."""
    import tensorflow_datasets as tfds

    base, _, config = name.partition("/")
    if base not in tfds.list_builders(with_community_datasets=False):
        raise _unknown(name)
    then = (
        "expected array_record files there, or a network and a builder that needs no TensorFlow\n"
        "Connect and try again; or prepare it elsewhere with file_format='array_record', and name "
        "that directory with --data-dir (data_dir=)."
    )
    # The many parts of TFDS raise many kinds of errors.
    with errors_as(DataError, f"{name} is not prepared in {root}, and preparing it failed", then):
        if config and config not in tfds.builder_cls(base).builder_configs:
            raise _unknown(name)
        builder = tfds.builder(name, data_dir=root)
        prepared = Path(builder.data_path)
        if not prepared.exists():
            with tempfile.TemporaryDirectory(prefix="cgan_jax-") as downloads:
                use_stub = find_spec("tensorflow") is None
                tfds_download.download_and_prepare(builder, Path(downloads), use_stub=use_stub)
    return prepared


def _unknown(name: Any) -> ConfigError:
    import tensorflow_datasets as tfds

    known = tfds.list_builders(with_community_datasets=False)
    base, _, config = str(name).partition("/")
    if config and base in known:
        near = [f"{base}/{known_config}" for known_config in tfds.builder_cls(base).builder_configs]
        expected = f"a configuration of {base}" if near else f"{base} alone"
    else:
        near = difflib.get_close_matches(base, known, n=5, cutoff=0.5)
        expected = "a folder, an .npz file, or a name in www.tensorflow.org/datasets/catalog"
    hint = f"; did you mean {one_line(', '.join(near), 100)}?" if near else ""
    return ConfigError(
        f"no folder, file or TFDS data set is called {short_repr(name)}{hint}\n"
        f"expected {expected}\nCorrect the name."
    )
