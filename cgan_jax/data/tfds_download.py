"""Downloading a data set and preparing it with TFDS's own builder, without TensorFlow.

Reading what was prepared is in tfds_files.py.
"""

import hashlib
import http.client
import logging
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cgan_jax.checks import one_line
from cgan_jax.data import idx, tfds_files
from cgan_jax.data.spec import Spec
from cgan_jax.errors import DataError

_log = logging.getLogger("cgan_jax")

_PROBE_SECONDS = 3.0
_SILENCE_SECONDS = 20.0
_TOTAL_SECONDS = 900.0
_CHUNK = 1 << 16


def prepare(spec: Spec, root: Path) -> Path:
    """Download the files that TFDS registers for the data set and prepare them under `root`.

    The files are fetched here, with time-outs, because TFDS's own fetcher has none and retries a
    dead host for minutes; TFDS is handed them as "manually downloaded" and checks them against
    its registered checksums before it writes array_record files and renames the finished
    directory into place. Proxies are honoured as urllib does.

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

    stock = getattr(tfds.image_classification, spec.tfds_builder)
    names = [n for s in spec.splits.values() for n in (s.images_file, s.labels_file)]
    urls = {name: urllib.parse.urljoin(stock.URL, f"{name}.gz") for name in names}
    registered = {name: (stock.url_infos or {}).get(url) for name, url in urls.items()}
    if missing := [name for name, info in registered.items() if info is None]:
        raise DataError(f"TFDS {tfds.__version__} registers no checksum for {missing[0]}.gz")
    probe(urls[names[0]])
    _log.info("downloading %s and preparing it with TFDS in %s", spec.title, root)
    with tempfile.TemporaryDirectory(prefix="cgan_jax-") as temporary:
        deadline = time.monotonic() + _TOTAL_SECONDS
        for name, info in registered.items():
            _fetch(urls[name], info, Path(temporary), deadline)
        return _build(tfds, stock, spec, urls, root, Path(temporary))


def probe(url: str) -> None:
    """Raise a DataError unless the server answers within a few seconds, name look-up included."""
    outcome: list[Exception | None] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            with urllib.request.urlopen(request, timeout=_PROBE_SECONDS):
                outcome.append(None)
        except Exception as error:
            outcome.append(error)

    # A name look-up knows no time-out, so it must happen where it can be left behind.
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
            while received <= info.size and (piece := response.read(_CHUNK)):
                if time.monotonic() > deadline:
                    raise DataError(f"the download took more than {_TOTAL_SECONDS:.0f} s")
                stream.write(piece)
                digest.update(piece)
                received += len(piece)
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"the download of {url} failed: {one_line(error)}") from error
    if received < info.size:
        raise DataError(f"the download of {url} was cut after {received} of {info.size} bytes")
    if digest.hexdigest() != info.checksum:
        raise DataError(f"{url} has not the checksum that TFDS registers for it")


def _build(
    tfds: Any, stock: Any, spec: Spec, urls: dict[str, str], root: Path, downloads: Path
) -> Path:
    with tfds.core.registered.skip_registration():

        class Builder(stock):
            """The stock builder, but for the places where it calls TensorFlow."""

            name = spec.name

            def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
                paths = dl_manager.download(urls)
                return {
                    split: self._generate_examples(
                        idx.read(Path(paths[s.images_file]), s.shape),
                        idx.read(Path(paths[s.labels_file]), s.shape[:1]),
                    )
                    for split, s in spec.splits.items()
                }

            def _generate_examples(self, images: Any, labels: Any) -> Iterator[Any]:
                from PIL import Image

                for i, (image, label) in enumerate(zip(images, labels, strict=True)):
                    yield i, {"image": Image.fromarray(image), "label": int(label)}

    config = tfds.download.DownloadConfig(manual_dir=downloads, try_download_gcs=False)
    try:
        with tfds_files.quiet():
            Builder(data_dir=root).download_and_prepare(
                download_dir=downloads, download_config=config, file_format="array_record"
            )
    # TFDS lets the errors of its many parts through, and the next source may serve whatever it was.
    except Exception as error:
        # Another process may have finished the same directory first.
        if tfds_files.find(spec.name, root) is None:
            raise DataError(f"TFDS could not prepare it: {one_line(error)}") from error
    prepared = tfds_files.find(spec.name, root)
    if prepared is None:
        raise DataError(f"TFDS prepared nothing in {root}")
    return prepared
