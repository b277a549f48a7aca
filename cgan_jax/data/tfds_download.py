"""Downloading a data set and preparing it with TFDS's own builder, without TensorFlow.

tfds_files.py reads the prepared directory.
"""

import contextlib
import http.client
import logging
import os
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from cgan_jax.checks import one_line
from cgan_jax.data import tfds_files
from cgan_jax.data.crops import to_pillow
from cgan_jax.data.spec import Spec
from cgan_jax.errors import DataError

_log = logging.getLogger("cgan_jax")

_PROBE_SECONDS = 3.0
_SILENCE_SECONDS = 20.0
_TOTAL_SECONDS = 900.0
_CHUNK = 1 << 16


def prepare(spec: Spec, temporary: Path) -> Path:
    """Download the files that TFDS registers for the data set, and let TFDS prepare them.

    We fetch the files, with time-outs, because TFDS's downloader has none and retries a dead host
    for minutes. TFDS receives them as "manually downloaded", compares them with its registered
    checksums, writes array_record files and renames the finished directory into place. Proxies are
    used as by urllib.

    Args:
        spec: the data set.
        temporary: a folder for the downloads; and for the prepared directory, where TFDS's usual
            directory holds the data set already, or cannot be written.

    Returns:
        The prepared version directory.

    Raises:
        DataError: no network, an incomplete or unexpected download, or TFDS failed.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(f"TFDS cannot be imported: {one_line(error)}") from error

    root = _usual_root_if_free(spec.name) or temporary
    builder = tfds.builder_cls(spec.name)(data_dir=root)
    if not builder.url_infos:
        raise DataError(f"TFDS {tfds.__version__} registers no checksums of {spec.title}")
    deadline, cause = time.monotonic() + _TOTAL_SECONDS, None
    _probe(next(iter(builder.url_infos)))
    for url, info in builder.url_infos.items():
        _fetch(url, info, temporary, deadline)
    try:
        download_and_prepare(builder, temporary, use_stub=True, manual_dir=temporary)
    # The many parts of TFDS raise many kinds of errors; the next source is tried after any.
    except Exception as error:
        cause = error
    # After an error too: another process may have finished the same directory first.
    prepared = tfds_files.find(spec.name, root)
    if prepared is None:
        raise DataError(f"TFDS could not prepare it: {one_line(cause or 'no files')}") from cause
    return prepared


def _usual_root_if_free(name: str) -> Path | None:
    """TFDS's usual directory, if the data set can be prepared there."""
    try:
        root = tfds_files.usual_root()
        place = root / name
        nearest = next(p for p in (place, *place.parents) if p.exists())
        is_free = nearest != place or not any(place.iterdir())
        return root if is_free and nearest.is_dir() and os.access(nearest, os.W_OK) else None
    except (OSError, DataError):
        return None


def download_and_prepare(
    builder: Any, downloads: Path, *, use_stub: bool, manual_dir: Path | None = None
) -> None:
    """Let a TFDS builder prepare its data set as array_record, without output.

    Args:
        builder: the builder.
        downloads: where it keeps its downloads.
        use_stub: replace TensorFlow by what most builders of image sets use of it.
        manual_dir: a folder of files that are already downloaded.

    Raises:
        DataError: there is something to download, and its server does not answer.
        Exception: whatever TFDS raises.
    """
    import tensorflow_datasets as tfds

    files = builder.url_infos or {}
    if files and manual_dir is None:
        _probe(next(iter(files)))  # TFDS would retry a dead host for minutes
    size = sum(int(info.size) for info in files.values()) / 1e6
    _log.info("preparing %s (%.0f MB) with TFDS in %s", builder.name, size, builder.data_path)
    config = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
    stub = _without_tensorflow(type(builder)) if use_stub else contextlib.nullcontext()
    with stub, tfds_files.quiet():
        builder.download_and_prepare(
            download_dir=downloads, download_config=config, file_format="array_record"
        )


def _probe(url: str) -> None:
    """Raise a DataError unless the server answers within a few seconds, including name lookup."""
    problem = [f" within {2 * _PROBE_SECONDS:.0f} s"]

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            with urllib.request.urlopen(request, timeout=_PROBE_SECONDS):
                problem.clear()
        except Exception as error:
            problem[0] = f": {one_line(error)}"

    # A name lookup has no time-out, so it runs in a thread that we can abandon.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(2 * _PROBE_SECONDS)
    if problem:
        raise DataError(f"no answer from {urllib.parse.urlsplit(url).netloc}{problem[0]}")


def _fetch(url: str, info: Any, directory: Path, deadline: float) -> None:
    """Download one file of at most its registered size; TFDS itself compares the checksums."""
    try:
        with (
            urllib.request.urlopen(url, timeout=_SILENCE_SECONDS) as response,
            open(directory / info.filename, "wb") as stream,
        ):
            while stream.tell() <= info.size and (chunk := response.read(_CHUNK)):
                if time.monotonic() > deadline:
                    raise DataError(f"the download took more than {_TOTAL_SECONDS:.0f} s")
                stream.write(chunk)
            received = stream.tell()
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"the download of {url} failed: {one_line(error)}") from error
    if received < info.size:
        raise DataError(f"the download of {url} was cut after {received} of {info.size} bytes")


_GFILE = SimpleNamespace(
    GFile=open, exists=os.path.exists, isdir=os.path.isdir, listdir=os.listdir, walk=os.walk
)
_STUB = SimpleNamespace(io=SimpleNamespace(gfile=_GFILE), compat=SimpleNamespace(as_text=str))


@contextlib.contextmanager
def _without_tensorflow(builder: type) -> Iterator[None]:
    """Replace TensorFlow in the modules of a TFDS builder class and of TFDS's extractor.

    They open files through `tf.io.gfile`, and TFDS has no hook for that. So the name `tf` is
    patched in these modules, and not in `sys.modules`, where every library would see the stub. Any
    other use of TensorFlow raises an AttributeError that names it. Pillow encodes arrays, since
    TFDS accepts Pillow images without TensorFlow.
    """
    from tensorflow_datasets.core import features
    from tensorflow_datasets.core.download import extractor

    encode = features.Image.encode_example

    def encode_with_pillow(feature: Any, image: Any) -> Any:
        return encode(feature, to_pillow(image) if isinstance(image, np.ndarray) else image)

    modules = {sys.modules[base.__module__] for base in builder.__mro__} | {extractor}
    with contextlib.ExitStack() as stack:
        for module in modules:
            if hasattr(module, "tf"):
                stack.enter_context(mock.patch.object(module, "tf", _STUB))
        stack.enter_context(mock.patch.object(features.Image, "encode_example", encode_with_pillow))
        yield
