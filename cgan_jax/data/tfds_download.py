"""Downloading a data set and preparing it with TFDS's own builder, without TensorFlow.

tfds_files.py reads the prepared directory.
"""

import contextlib
import hashlib
import http.client
import logging
import os
import sys
import tempfile
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
from cgan_jax.data.spec import Spec
from cgan_jax.data.square_images import to_pillow
from cgan_jax.errors import DataError

_log = logging.getLogger("cgan_jax")

_PROBE_SECONDS = 3.0
_SILENCE_SECONDS = 20.0
_TOTAL_SECONDS = 900.0
_CHUNK = 1 << 16


def prepare(spec: Spec, root: Path) -> Path:
    """Download the files that TFDS registers for the data set and prepare them under `root`.

    We fetch the files, with time-outs, because TFDS's downloader has none and retries a dead host
    for minutes. TFDS receives them as "manually downloaded", compares them with its registered
    checksums, writes array_record files and renames the finished directory into place. Proxies are
    used as by urllib.

    Args:
        spec: the data set.
        root: the TFDS data directory to prepare in.

    Returns:
        The prepared version directory.

    Raises:
        DataError: no network, an incomplete or unexpected download, or TFDS failed.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(f"TFDS cannot be imported: {one_line(error)}") from error

    builder = getattr(tfds.image_classification, spec.tfds_builder)(data_dir=root)
    if not builder.url_infos:
        raise DataError(f"TFDS {tfds.__version__} registers no checksums of {spec.title}")
    probe(next(iter(builder.url_infos)))
    _log.info("downloading %s and preparing it with TFDS in %s", spec.title, root)
    with tempfile.TemporaryDirectory(prefix="cgan_jax-") as temporary:
        downloads, cause = Path(temporary), None
        deadline = time.monotonic() + _TOTAL_SECONDS
        for url, info in builder.url_infos.items():
            _fetch(url, info, downloads, deadline)
        try:
            download_and_prepare(builder, downloads, use_stub=True, manual_dir=downloads)
        # The many parts of TFDS raise many kinds of errors; the next source is tried after any.
        except Exception as error:
            cause = error
    # After an error too: another process may have finished the same directory first.
    prepared = tfds_files.find(spec.name, root)
    if prepared is None:
        raise DataError(f"TFDS could not prepare it: {one_line(cause or 'no files')}") from cause
    return prepared


def probe(url: str) -> None:
    """Raise a DataError unless the server answers within a few seconds, including name lookup."""
    outcome: list[Exception | None] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            with urllib.request.urlopen(request, timeout=_PROBE_SECONDS):
                outcome.append(None)
        except Exception as error:
            outcome.append(error)

    # A name lookup has no time-out, so it runs in a thread that we can abandon.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(2 * _PROBE_SECONDS)
    host = urllib.parse.urlsplit(url).netloc
    if not outcome:
        raise DataError(f"no answer from {host} within {2 * _PROBE_SECONDS:.0f} s")
    if outcome[0] is not None:
        raise DataError(f"no answer from {host}: {one_line(outcome[0])}") from outcome[0]


def _fetch(url: str, info: Any, directory: Path, deadline: float) -> None:
    """Download one file and compare it with its registered size and SHA-256."""
    digest, received = hashlib.sha256(), 0
    try:
        with (
            urllib.request.urlopen(url, timeout=_SILENCE_SECONDS) as response,
            open(directory / info.filename, "wb") as stream,
        ):
            while received <= info.size and (chunk := response.read(_CHUNK)):
                if time.monotonic() > deadline:
                    raise DataError(f"the download took more than {_TOTAL_SECONDS:.0f} s")
                stream.write(chunk)
                digest.update(chunk)
                received += len(chunk)
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"the download of {url} failed: {one_line(error)}") from error
    if received < info.size:
        raise DataError(f"the download of {url} was cut after {received} of {info.size} bytes")
    if digest.hexdigest() != info.checksum:
        raise DataError(f"{url} does not have the checksum that TFDS registers for it")


def download_and_prepare(
    builder: Any, downloads: Path, *, use_stub: bool, manual_dir: Path | None = None
) -> None:
    """Let a TFDS builder prepare its data set as array_record, without output.

    Args:
        builder: the builder.
        downloads: where it keeps its downloads.
        use_stub: replace TensorFlow by what most builders of image sets use of it.
        manual_dir: a folder of files that are already downloaded.
    """
    import tensorflow_datasets as tfds

    config = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
    stub = _without_tensorflow(type(builder)) if use_stub else contextlib.nullcontext()
    with stub, tfds_files.quiet():
        builder.download_and_prepare(
            download_dir=downloads, download_config=config, file_format="array_record"
        )


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
