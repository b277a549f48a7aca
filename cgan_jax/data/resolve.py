"""load: the one door to the data. Tries each place that may hold a data set, in a fixed order.

How each place is read stands in the other modules of this package.
"""

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from cgan_jax.checks import as_directory, one_line, short_repr
from cgan_jax.data import cache, debian, idx_files, tfds_download, tfds_files
from cgan_jax.data.dataset import Dataset
from cgan_jax.data.idx_files import Arrays
from cgan_jax.data.spec import SPECS, Spec
from cgan_jax.errors import ConfigError, DataError

_log = logging.getLogger("cgan_jax")

# What one source serves: splits by name, at least the one asked for, and one line on its origin.
_Served = tuple[dict[str, Arrays], str]


def load(
    name: str = "fashion_mnist",
    split: str = "train",
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
) -> Dataset:
    """Load a split of a data set; the same bits in the same order whichever source serves.

    Sources, the first that serves wins: the directory `data_dir` and nothing else, if it is
    named; the cache; a directory prepared by TFDS in its usual place ($TFDS_DATA_DIR or
    ~/tensorflow_datasets); the files of an installed Debian package; a download through TFDS; on
    Debian-like systems the distribution's package, fetched without root. Whatever is read is
    compared with the published SHA-256 of the data set and kept in the cache.

    Args:
        name: the data set, "fashion_mnist".
        split: "train" (60,000 images) or "test" (10,000).
        data_dir: a directory prepared by TFDS as array_record (its root or the version directory
            itself), or one with the idx files, gzipped or not.
        cache_dir: where verified copies are kept; by default $CGAN_JAX_CACHE or the user's cache
            directory.

    Returns:
        Images uint8 [N, 28, 28, 1] and labels int32 [N].

    Raises:
        ConfigError: unknown name or split.
        DataError: a directory is unusable, or no source could serve.
    """
    if not isinstance(name, str) or name not in SPECS:
        raise ConfigError(
            f"unknown data set {short_repr(name)}\nexpected one of {', '.join(SPECS)}\n"
            "Name it so, or make a Dataset of your own arrays with Dataset.from_arrays."
        )
    spec = SPECS[name]
    if not isinstance(split, str) or split not in spec.splits:
        raise ConfigError(
            f"{name} has no split {short_repr(split)}\n"
            f"expected one of {', '.join(spec.splits)}\nOmit it for train."
        )
    kept = as_directory(cache_dir, "cache_dir") if cache_dir else cache.default_directory()
    if data_dir is not None:
        place = as_directory(data_dir, "data_dir")
        try:
            arrays, source = _from_named(spec, split, place, kept)
        except DataError as error:
            raise DataError(
                f"{error}\nMend that, name another directory, or none to have the data looked for."
            ) from error
    else:
        arrays, source = _from_anywhere(spec, split, kept)
    _log.info("%s %s: %d images from %s", spec.title, split, len(arrays.labels), source)
    return Dataset(
        images=arrays.images[..., np.newaxis],
        labels=arrays.labels.astype(np.int32),
        class_names=spec.class_names,
        name=spec.name,
        source=source,
    )


def _from_named(spec: Spec, split: str, directory: Path, kept: Path) -> tuple[Arrays, str]:
    if not os.path.isdir(directory):  # which, unlike Path's, takes whatever name for an answer
        raise DataError(f"the data directory {directory} is not there\nexpected a directory")
    try:
        pair = idx_files.find(spec, split, directory)
        prepared = None if pair else tfds_files.find(spec.name, directory)
        files = pair or sorted(prepared.iterdir() if prepared else ())
        mark = cache.fingerprint(files)
    except (OSError, RuntimeError) as error:  # the latter for links that go round in a circle
        raise DataError(
            f"cannot read the data directory {directory}: {one_line(error)}\n"
            "expected one that you may read"
        ) from error
    if not files:
        raise DataError(
            f"the data directory {directory} holds no {spec.title} {split} split\n"
            f"expected {spec.splits[split].images_file}[.gz] and its labels, or a directory "
            "prepared by TFDS as array_record"
        )
    if found := cache.load(kept, spec, split, mark):
        return found[0], _cached(kept, found[1])
    if pair:
        arrays, source = idx_files.read(spec, split, pair), f"idx files in {directory}"
    else:
        assert prepared is not None
        arrays, source = tfds_files.read(spec, split, prepared), f"TFDS files in {prepared}"
    cache.store(kept, spec, split, arrays, source, mark)
    return arrays, source


def _from_anywhere(spec: Spec, split: str, kept: Path) -> tuple[Arrays, str]:
    if found := cache.load(kept, spec, split):
        return found[0], _cached(kept, found[1])
    failures = []
    for title, serve in _SOURCES:
        try:
            splits, source = serve(spec, split)
        except (DataError, OSError) as error:
            reason = str(error).partition("\n")[0]
            failures.append(f"{title} ({reason})")
            _log.info("%s not from %s: %s", spec.title, title, reason)
            continue
        for served, arrays in splits.items():
            cache.store(kept, spec, served, arrays, source)
        return splits[split], source
    raise DataError(
        f"{spec.title} could not be had from any source\ntried were {'; '.join(failures)}\n"
        "Connect to the network and try again; or, on Debian and Ubuntu, "
        f"`apt install {spec.debian_package}`; or name a directory that holds its idx files or "
        "that TFDS has prepared, with --data-dir (data_dir=)."
    )


def _cached(kept: Path, source: str) -> str:
    return f"the cache in {kept} (first read from {source})"


def _from_tfds(spec: Spec, split: str) -> _Served:
    root = tfds_files.usual_root()
    try:
        prepared = tfds_files.find(spec.name, root)
    except OSError as error:
        raise DataError(f"cannot look into {root}: {error}") from error
    if prepared is None:
        raise DataError(f"nothing prepared in {root / spec.name}")
    return {split: tfds_files.read(spec, split, prepared)}, f"TFDS files in {prepared}"


def _from_installed(spec: Spec, split: str) -> _Served:
    pair = idx_files.find(spec, split, spec.debian_dir)
    if pair is None:
        raise DataError(f"no files in {spec.debian_dir}")
    return {split: idx_files.read(spec, split, pair)}, f"Debian's files in {spec.debian_dir}"


def _from_tfds_download(spec: Spec, split: str) -> _Served:
    with _free_root(spec) as root:
        prepared = tfds_download.prepare(spec, root)
        splits = {each: tfds_files.read(spec, each, prepared) for each in spec.splits}
    return splits, "a download through TFDS"


@contextmanager
def _free_root(spec: Spec) -> Iterator[Path]:
    """TFDS's usual place if it is free for us to prepare in, otherwise a temporary folder."""
    try:
        root = tfds_files.usual_root()
        place = root / spec.name
        nearest = next(p for p in (place, *place.parents) if p.exists())
        taken = tfds_files.versions(spec.name, root)
        free = nearest.is_dir() and os.access(nearest, os.W_OK) and not taken
    except (OSError, DataError):
        free = False
    if free:
        yield root
    else:
        with tempfile.TemporaryDirectory(prefix="cgan_jax-") as temporary:
            yield Path(temporary)


def _from_package(spec: Spec, split: str) -> _Served:
    return debian.fetch(spec), f"Debian's package {spec.debian_package}, fetched with apt-get"


_SOURCES: tuple[tuple[str, Callable[[Spec, str], _Served]], ...] = (
    ("TFDS's directory", _from_tfds),
    ("an installed Debian package", _from_installed),
    ("a download through TFDS", _from_tfds_download),
    ("Debian's package", _from_package),
)
