"""`load_own`: the user's own data, by a path or by a name in TFDS."""

import os
from os import PathLike

from cgan_jax.checks import as_path
from cgan_jax.data.dataset import Dataset
from cgan_jax.data.folder import load_folder
from cgan_jax.data.npz import load_npz
from cgan_jax.data.resolve import load
from cgan_jax.data.spec import SPECS
from cgan_jax.data.tfds_named import load_tfds
from cgan_jax.errors import ConfigError


def load_own(
    data: str,
    *,
    split: str = "train",
    img_size: int | None = None,
    channels: int | None = None,
    data_dir: str | PathLike[str] | None = None,
) -> Dataset:
    """Load a folder, an .npz file, or a data set of TFDS, whichever `data` names."""
    path = as_path(data, "data")
    is_npz = path.suffix.lower() == ".npz"
    if os.path.exists(path) or is_npz or data.startswith((".", "/", "~")):
        if data_dir:
            raise ConfigError(
                f"data_dir does not go with {data}, which is a path\n"
                "expected the name of a data set of TFDS\nOmit it."
            )
        read = load_npz if is_npz and not os.path.isdir(path) else load_folder
        return read(path, img_size, channels)
    if data in SPECS and img_size is None and channels is None:
        return load(data, split, data_dir)
    return load_tfds(data, split, data_dir, img_size, channels)


def has_test_split(data: str, data_dir: str | PathLike[str] | None = None) -> bool:
    """Whether `load_own` finds a test part."""
    return data in SPECS
