"""The user's cache of verified splits: raw idx files whose SHA-256 is checked at every load.

A broken or unwritable cache costs time and one log line, never an error.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from cgan_jax.checks import as_directory
from cgan_jax.data import idx
from cgan_jax.data.idx_files import Arrays
from cgan_jax.data.spec import Spec

_log = logging.getLogger("cgan_jax")


def default_directory() -> Path:
    """$CGAN_JAX_CACHE if set, else the user's cache directory of this system.

    Raises:
        DataError: $CGAN_JAX_CACHE leads to the home of a user who has none.
    """
    if named := os.environ.get("CGAN_JAX_CACHE"):
        return as_directory(named, "CGAN_JAX_CACHE")
    import platformdirs

    return Path(platformdirs.user_cache_dir("cgan_jax"))


def fingerprint(files: Iterable[Path]) -> str:
    """A short hash over the files' resolved paths, sizes and modification times.

    Raises:
        OSError: a file cannot be examined.
    """
    facts = []
    for path in sorted(file.resolve() for file in files):
        stat = path.stat()
        facts.append((os.fsdecode(path), stat.st_size, stat.st_mtime_ns))
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def load(directory: Path, spec: Spec, split: str, mark: str = "") -> tuple[Arrays, str] | None:
    """The cached split and the source it was first read from, or None.

    Args:
        directory: the cache directory.
        spec: the data set.
        split: the split's name.
        mark: fingerprint of the files that the copy must have been verified against; "" for any.
    """
    wanted = spec.splits[split]
    folder = directory / spec.name
    try:
        source = _source_file(folder, split, mark).read_text(encoding="utf-8")
        images = _read(folder / wanted.images_file, wanted.shape, wanted.images_sha256)
        labels = _read(folder / wanted.labels_file, wanted.shape[:1], wanted.labels_sha256)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _log.info("cached copy of %s is unusable (%s): reading it anew", spec.title, error)
        return None
    return Arrays(images, labels), source


def store(
    directory: Path, spec: Spec, split: str, arrays: Arrays, source: str, mark: str = ""
) -> None:
    """Keep a verified split. Each file appears whole or not at all, whoever else writes it."""
    wanted = spec.splits[split]
    folder = directory / spec.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in zip((wanted.images_file, wanted.labels_file), arrays, strict=True):
            _write(folder / name, idx.header(array.shape), np.ascontiguousarray(array).data)
        for one_mark in {"", mark}:
            _write(
                _source_file(folder, split, one_mark),
                source.encode(errors="backslashreplace"),  # a folder's name may be no UTF-8
            )
    except OSError as error:
        _log.info("cannot cache %s in %s (%s): going on without", spec.title, folder, error)


def _source_file(folder: Path, split: str, mark: str) -> Path:
    return folder / (f"{split}.{mark}.source" if mark else f"{split}.source")


def _read(path: Path, shape: tuple[int, ...], sha256: str) -> np.ndarray:
    n_header = len(idx.header(shape))
    if path.stat().st_size != n_header + math.prod(shape):
        raise ValueError(f"{path} has the wrong size")
    data = np.fromfile(path, np.uint8)
    if hashlib.sha256(data.data).hexdigest() != sha256:
        raise ValueError(f"{path} is damaged")
    return data[n_header:].reshape(shape)


def _write(path: Path, *parts: bytes | memoryview) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "wb") as stream:
            stream.writelines(parts)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
