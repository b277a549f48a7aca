"""`load`: the single entry point for published data. Tries the sources in a fixed order.

The other modules of this package read each kind of source.
"""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

import numpy as np

from cgan_jax.checks import as_path, one_line, plural, short_repr
from cgan_jax.data import cache, debian, idx_files, tfds_download, tfds_files
from cgan_jax.data.dataset import Dataset
from cgan_jax.data.idx_files import Arrays
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
    spec: Spec, split: str, directory: Path, cache_path: Path, use_cache: bool = False
) -> tuple[Arrays, str]:
    if not os.path.isdir(directory):  # which, unlike Path's, accepts any name
        raise DataError(f"the directory {directory} does not exist\nexpected a directory")
    try:
        pair = idx_files.find(spec, split, directory)
        prepared = None if pair else tfds_files.find(spec.name, directory)
        mark = cache.fingerprint(pair or (prepared.iterdir() if prepared else ()))
    except (OSError, RuntimeError) as error:  # the latter for circular links
        raise DataError(
            f"cannot read the directory {directory}: {one_line(error)}\n"
            "expected a directory that you may read"
        ) from error
    if not pair and not prepared:
        raise DataError(
            f"the directory {directory} holds no {spec.title} {split} split\n"
            f"expected {spec.splits[split].images.name}[.gz] and its labels, or a directory "
            "prepared by TFDS as array_record"
        )
    if use_cache and (cached := cache.load(cache_path, spec, split, mark)):
        return cached
    if pair:
        arrays, source = idx_files.read(spec, split, pair), f"idx files in {directory}"
    else:
        assert prepared is not None
        arrays, source = tfds_files.read(spec, split, prepared), f"TFDS files in {prepared}"
    cache.store(cache_path, spec, split, arrays, source, mark)
    return arrays, source


def _from_anywhere(spec: Spec, split: str, cache_path: Path) -> tuple[Arrays, str]:
    if cached := cache.load(cache_path, spec, split):
        return cached
    failures = []
    for title, read in _SOURCES:
        try:
            return read(spec, split, cache_path)
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


def _from_tfds_directory(spec: Spec, split: str, cache_path: Path) -> tuple[Arrays, str]:
    return _from_directory(spec, split, tfds_files.usual_root(), cache_path)


def _from_installed_package(spec: Spec, split: str, cache_path: Path) -> tuple[Arrays, str]:
    return _from_directory(spec, split, spec.debian_dir, cache_path)


def _from_tfds_download(spec: Spec, split: str, cache_path: Path) -> tuple[Arrays, str]:
    with _download_root(spec) as root:
        prepared = tfds_download.prepare(spec, root)
        splits = {name: tfds_files.read(spec, name, prepared) for name in spec.splits}
    return _store_all(spec, split, splits, "a download through TFDS", cache_path)


def _from_debian_package(spec: Spec, split: str, cache_path: Path) -> tuple[Arrays, str]:
    source = f"the Debian package {spec.debian_package}, fetched with apt-get"
    return _store_all(spec, split, debian.fetch(spec), source, cache_path)


def _store_all(
    spec: Spec, split: str, splits: dict[str, Arrays], source: str, cache_path: Path
) -> tuple[Arrays, str]:
    for name, arrays in splits.items():
        cache.store(cache_path, spec, name, arrays, source)
    return splits[split], source


@contextmanager
def _download_root(spec: Spec) -> Iterator[Path]:
    """TFDS's usual directory if we can prepare the data set there, otherwise a temporary one."""
    try:
        root = tfds_files.usual_root()
        place = root / spec.name
        nearest = next(p for p in (place, *place.parents) if p.exists())
        usable = nearest.is_dir() and os.access(nearest, os.W_OK)
        usable = usable and (nearest != place or not any(place.iterdir()))
    except (OSError, DataError):
        usable = False
    if usable:
        yield root
    else:
        with tempfile.TemporaryDirectory(prefix="cgan_jax-") as temporary:
            yield Path(temporary)


_SOURCES = (
    ("TFDS's directory", _from_tfds_directory),
    ("an installed Debian package", _from_installed_package),
    ("a download through TFDS", _from_tfds_download),
    ("the Debian package", _from_debian_package),
)
