"""The user's cache of verified splits: raw idx files whose SHA-256 is checked at every load.

A broken or read-only cache costs time and one log line, never an error.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import platformdirs

from cgan_jax.checks import as_path, one_line
from cgan_jax.data import idx
from cgan_jax.data.idx import Arrays
from cgan_jax.data.spec import Spec
from cgan_jax.errors import DataError

_log = logging.getLogger("cgan_jax")


def default_directory() -> Path:
    """$CGAN_JAX_CACHE if set, else the user's cache directory of this system.

    Raises:
        DataError: not a usable path.
    """
    directory = os.environ.get("CGAN_JAX_CACHE") or platformdirs.user_cache_dir("cgan_jax")
    return as_path(directory, "CGAN_JAX_CACHE")


def fingerprint(files: Iterable[Path]) -> str:
    """A short hash of the resolved paths, sizes and modification times of files.

    Raises:
        OSError: a file cannot be accessed.
    """
    paths = sorted(file.resolve() for file in files)
    facts = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def load(directory: Path, spec: Spec, split: str, mark: str = "") -> tuple[Arrays, str] | None:
    """The cached split and its origin on one line, or None.

    Args:
        directory: the cache directory.
        spec: the data set.
        split: the split's name.
        mark: fingerprint of the files that the copy must come from; "" for any.
    """
    folder = directory / spec.name
    images, labels = (folder / file.name for file in spec.splits[split])
    try:
        source = _source_file(folder, split, mark).read_text(encoding="utf-8")
        if not (images.exists() and labels.exists()):
            return None
        arrays = idx.read(spec, split, (images, labels))
        return arrays, f"the cache in {directory} (first read from {source})"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, DataError) as error:
        reason = one_line(error)
        _log.info("cached copy of %s is unusable (%s): reading the source", spec.title, reason)
        return None


def store(
    directory: Path, spec: Spec, split: str, arrays: Arrays, source: str, mark: str = ""
) -> None:
    """Store a verified split. Each file is written atomically, also by several processes."""
    folder = directory / spec.name
    contents = {
        folder / file.name: idx.header(array.shape) + array.tobytes()
        for file, array in zip(spec.splits[split], arrays, strict=True)
    }
    contents |= {_source_file(folder, split, each): source.encode() for each in ("", mark)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in contents.items():
            with tempfile.TemporaryDirectory(dir=folder, prefix=".") as temporary:
                complete = Path(temporary, path.name)
                complete.write_bytes(content)
                os.replace(complete, path)
    except OSError as error:
        _log.info("cannot cache %s in %s (%s)", spec.title, folder, error)


def _source_file(folder: Path, split: str, mark: str) -> Path:
    return folder / (f"{split}.{mark}.source" if mark else f"{split}.source")
