"""`load`: the single entry point for published data. Tries the sources in a fixed order.

The other modules of this package read each kind of source.
"""

import logging
import os
import tempfile
from collections.abc import Callable
from functools import partial
from os import PathLike
from pathlib import Path

import numpy as np

from cgan_jax.checks import as_path, errors_as, plural, short_repr
from cgan_jax.data import cache, debian, idx, tfds_download, tfds_files
from cgan_jax.data.dataset import Dataset
from cgan_jax.data.idx import Arrays
from cgan_jax.data.spec import SPECS, Spec
from cgan_jax.errors import ConfigError, DataError

_log = logging.getLogger("cgan_jax")


def load(
    name: str = "fashion_mnist",
    split: str = "train",
    data_dir: str | PathLike[str] | None = None,
    cache_dir: str | PathLike[str] | None = None,
) -> Dataset:
    """Load a split of a published data set: the same bits in the same order from every source.

    With `data_dir`, that directory is the only source. Otherwise the first of these that has the
    data: the cache; a directory prepared by TFDS in its usual place ($TFDS_DATA_DIR or
    ~/tensorflow_datasets); the files of an installed Debian package; a download through TFDS; on
    Debian-like systems the distribution's package, fetched without root. The data are compared
    with the published SHA-256 and stored in the cache.

    Args:
        name: the data set, "fashion_mnist".
        split: "train" (60,000 images) or "test" (10,000).
        data_dir: a directory prepared by TFDS as array_record (its root or the version directory
            itself), or one with the idx files, gzipped or not.
        cache_dir: where to store verified copies; by default $CGAN_JAX_CACHE or the user's cache
            directory.

    Returns:
        Images uint8 [N, 28, 28, 1] and labels int32 [N].

    Raises:
        ConfigError: unknown name or split.
        DataError: a directory is unusable, or no source has the data.
    """
    if not isinstance(name, str) or name not in SPECS:
        raise ConfigError(
            f"unknown data set {short_repr(name)}\nexpected one of {', '.join(SPECS)}\n"
            "Use that name, or make a Dataset of your own arrays with Dataset.from_arrays."
        )
    spec = SPECS[name]
    if not isinstance(split, str) or split not in spec.splits:
        raise ConfigError(
            f"{name} has no split {short_repr(split)}\n"
            f"expected one of {', '.join(spec.splits)}\nOmit it for train."
        )
    cache_path = as_path(cache_dir, "cache_dir") if cache_dir else cache.default_directory()
    if data_dir is not None:
        directory = as_path(data_dir, "data_dir")
        try:
            arrays, source = _from_directory(spec, split, directory, cache_path, use_cache=True)
        except DataError as error:
            raise DataError(
                f"{error}\nRepair that, name another directory, or omit it to search all sources."
            ) from error
    else:
        arrays, source = _from_anywhere(spec, split, cache_path)
    n_images = plural(len(arrays.labels), "image")
    _log.info("%s %s: %s from %s", spec.title, split, n_images, source)
    return Dataset(
        images=arrays.images[..., np.newaxis],
        labels=arrays.labels.astype(np.int32),
        class_names=spec.class_names,
        name=spec.name,
        source=source,
    )


def _from_directory(
    spec: Spec,
    split: str,
    directory: Path,
    cache_path: Path,
    *,
    use_cache: bool = False,
    source: str = "",
) -> tuple[Arrays, str]:
    """A split, now in the cache, and where it is from: `source`, by default the directory."""
    if not os.path.isdir(directory):  # which, unlike Path's, accepts any name
        raise DataError(f"the directory {directory} does not exist\nexpected a directory")
    then = "expected a directory that you may read"
    unreadable = OSError, RuntimeError  # the latter for circular links
    with errors_as(DataError, f"cannot read the directory {directory}", then, unreadable):
        pair = idx.find(spec, split, directory)
        prepared = None if pair else tfds_files.find(spec.name, directory)
        files = pair or (prepared.iterdir() if prepared else ())
        mark = "" if source else cache.fingerprint(files)
    if not pair and not prepared:
        raise DataError(
            f"the directory {directory} holds no {spec.title} {split} split\n"
            f"expected {spec.splits[split].images.name}[.gz] and its labels, or a directory "
            "prepared by TFDS as array_record"
        )
    if use_cache and (cached := cache.load(cache_path, spec, split, mark)):
        return cached
    if pair:
        arrays, source = idx.read(spec, split, pair), source or f"idx files in {directory}"
    else:
        assert prepared is not None
        source = source or f"TFDS files in {prepared}"
        arrays = tfds_files.read(spec, split, prepared)
    cache.store(cache_path, spec, split, arrays, source, mark)
    return arrays, source


def _from_download(
    fetch: Callable[[Spec, Path], Path], spec: Spec, split: str, cache_path: Path, source: str
) -> tuple[Arrays, str]:
    with tempfile.TemporaryDirectory(prefix="cgan_jax-") as temporary:
        directory = fetch(spec, Path(temporary))
        # All of them go into the cache, so that there is one download.
        splits = {
            each: _from_directory(spec, each, directory, cache_path, source=source)
            for each in spec.splits
        }
    return splits[split]


def _from_anywhere(spec: Spec, split: str, cache_path: Path) -> tuple[Arrays, str]:
    if cached := cache.load(cache_path, spec, split):
        return cached
    directory = partial(_from_directory, spec, split, cache_path=cache_path)
    download = partial(_from_download, spec=spec, split=split, cache_path=cache_path)
    package = f"the Debian package {spec.debian_package}, fetched with apt-get"
    sources: dict[str, Callable[[], tuple[Arrays, str]]] = {
        "TFDS's directory": lambda: directory(tfds_files.usual_root()),
        "an installed Debian package": lambda: directory(spec.debian_dir),
        "a download through TFDS": lambda: download(
            tfds_download.prepare, source="a download through TFDS"
        ),
        "the Debian package": lambda: download(debian.fetch, source=package),
    }
    failures = []
    for title, read in sources.items():
        try:
            return read()
        except (DataError, OSError) as error:
            reason = str(error).partition("\n")[0]
            failures.append(f"{title} ({reason})")
            _log.info("%s not from %s: %s", spec.title, title, reason)
    raise DataError(
        f"no source has {spec.title}\ntried {'; '.join(failures)}\n"
        "Connect to the network and try again; or, on Debian and Ubuntu, "
        f"`apt install {spec.debian_package}`; or name a directory that holds its idx files or "
        "that TFDS has prepared, with --data-dir (data_dir=)."
    )
