"""`load_own`: the user's own data, by a path or by a name in TFDS, and their test part.

folder.py, npz.py and tfds_named.py read each kind of source.
"""

import os
from os import PathLike
from pathlib import Path
from typing import Any

from cgan_jax.checks import ImageSize, as_path
from cgan_jax.data import listing, npz, tfds_named
from cgan_jax.data.crops import Background
from cgan_jax.data.dataset import Dataset
from cgan_jax.data.folder import load_folder
from cgan_jax.data.listing import TEST_NAMES, check_split
from cgan_jax.data.npz import load_npz
from cgan_jax.data.resolve import load
from cgan_jax.data.spec import SPECS
from cgan_jax.data.stack import ProgressFn
from cgan_jax.data.tfds_named import load_tfds
from cgan_jax.errors import ConfigError, DataError


def load_own(
    data: str,
    *,
    split: str = "train",
    img_size: ImageSize | None = None,
    channels: int | None = None,
    data_dir: str | PathLike[str] | None = None,
    background: Background = "auto",
    skip_unreadable: bool = False,
    on_progress: ProgressFn | None = None,
) -> Dataset:
    """Load a folder, an .npz file, or a data set of TFDS, whichever `data` names.

    Args:
        data: a path; or a name in TFDS, as "mnist".
        split: "train", or "test" for the test part that comes with the data, which is read as the
            training part is: with the same class names, size, channels and background.
        img_size: as in `load_folder`, as are the following ones.
        channels: number of channels.
        data_dir: TFDS's data directory, for a name.
        background: what transparent pixels become.
        skip_unreadable: leave out files of a folder that cannot be read.
        on_progress: called as the work proceeds.

    Raises:
        ConfigError, DataError: as `load_folder`, `load_npz` and `load_tfds`; also if the data have
            no test part.
    """
    check_split(split)
    if split == "test" and not has_test_split(data, data_dir):
        raise DataError(
            f"{data} has no test part\nexpected a folder with train/ and test/, an .npz file with "
            "test_images and test_labels, or a data set of TFDS with a split test or validation\n"
            "Hold out some of the training images instead."
        )
    path = _path(data, data_dir)
    if path is None and data in SPECS and img_size is None and channels is None:
        return load(data, split, data_dir)  # from more places than TFDS
    options: Any = {
        "img_size": img_size,
        "channels": channels,
        "background": background,
        "on_progress": on_progress,
    }
    if path is None:
        name = _tfds_test(data, data_dir) if split == "test" else split
        return load_tfds(data, name or split, data_dir, **options)
    if _is_npz(path):
        return load_npz(path, split=split, **options)
    return load_folder(path, split=split, skip_unreadable=skip_unreadable, **options)


def has_test_split(data: str, data_dir: str | PathLike[str] | None = None) -> bool:
    """Whether `load_own` finds a test part; of a data set of TFDS, once that is prepared.

    Raises:
        ConfigError, DataError: the path or directory cannot be read.
    """
    path = _path(data, data_dir)
    if path is None:
        return data in SPECS or _tfds_test(data, data_dir) is not None
    if _is_npz(path):
        return npz.has_test_split(path)
    return listing.test_folder(path) is not None


def _path(data: str, data_dir: str | PathLike[str] | None) -> Path | None:
    """The path of a folder or file; None for a name in TFDS."""
    if not is_path(data):
        return None
    if data_dir:
        raise ConfigError(
            f"data_dir does not go with {data}, which is a path\n"
            "expected the name of a data set of TFDS\nOmit it."
        )
    path = as_path(data, "data")
    if os.path.isfile(path) and not _is_npz(path):
        raise DataError(
            f"{path} is a file, and not an .npz file\n"
            "expected a folder of pictures, an .npz file, or a name in TFDS\n"
            "Name the folder that it is in; or save arrays with np.savez('set.npz', images=..., "
            "labels=...)."
        )
    return path


def is_path(data: str) -> bool:
    """Whether data are named by a path, and not by a name in TFDS."""
    path = as_path(data, "data")
    return os.path.exists(path) or path.suffix.lower() == ".npz" or data.startswith((".", "/", "~"))


def _is_npz(path: Path) -> bool:
    return path.suffix.lower() == ".npz" and not os.path.isdir(path)


def _tfds_test(name: str, data_dir: str | PathLike[str] | None) -> str | None:
    """The name of the test split of a prepared data set of TFDS, if there is one."""
    sizes = tfds_named.split_sizes(name, data_dir)
    return next((each for each in TEST_NAMES if sizes.get(each)), None)
