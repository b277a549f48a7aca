"""TFDS as a source, end to end on a loopback server: prepared directories and downloads.

A package named tensorflow that fails on import is on the path in every test.
"""

import dataclasses
import hashlib
import http.server
import json
import logging
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.image_classification import mnist

from cgan_jax.data import load, tfds_download, tfds_files
from cgan_jax.data.spec import SplitSpec
from cgan_jax.errors import DataError


@pytest.fixture(autouse=True)
def tensorflow_must_stay_out(tmp_path, monkeypatch):
    package = tmp_path / "blocked" / "tensorflow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('tensorflow was imported')")
    monkeypatch.syspath_prepend(package.parent)
    yield
    assert "tensorflow" not in sys.modules


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder where temporary files go."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


class Server:
    """Serves the miniature's files; `spoil` may change the bytes or the announced length."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.spoil = lambda name, data: (data, len(data))
        self.requests: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.lstrip("/")
                outer.requests.append(f"{self.command} {name}")
                data, length = outer.spoil(name, (outer.directory / name).read_bytes())
                self.send_response(200)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(data)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"


@pytest.fixture
def server(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    serving = Server(tiny.idx_dir)
    stock = tfds.image_classification.FashionMNIST
    infos = {}
    for url, info in stock.url_infos.items():
        data = (tiny.idx_dir / url.rsplit("/", 1)[1]).read_bytes()
        infos[serving.url + info.filename] = dataclasses.replace(
            info, size=type(info.size)(len(data)), checksum=hashlib.sha256(data).hexdigest()
        )
    monkeypatch.setattr(stock, "URL", serving.url)
    monkeypatch.setattr(stock, "url_infos", infos)
    for name, split in (("_TRAIN_EXAMPLES", "train"), ("_TEST_EXAMPLES", "test")):
        monkeypatch.setattr(mnist, name, len(tiny.arrays[split].labels))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    thread = threading.Thread(target=serving.http.serve_forever, args=(0.02,))
    thread.start()
    yield serving
    serving.http.shutdown()
    thread.join()
    serving.http.server_close()


def same(dataset, arrays):
    np.testing.assert_array_equal(dataset.images[..., 0], arrays.images)
    np.testing.assert_array_equal(dataset.labels, arrays.labels)


def test_download_prepares_what_stock_tfds_and_load_can_read(
    tiny, server, temporary, tmp_path, capfd, caplog
):
    caplog.set_level(logging.INFO)
    train = load()
    same(train, tiny.arrays["train"])
    assert train.source == "a download through TFDS"
    requests = len(server.requests)
    same(load(split="test"), tiny.arrays["test"])
    assert len(server.requests) == requests == 5

    shutil.rmtree(tmp_path / "cache")
    again = load(split="test")
    same(again, tiny.arrays["test"])
    assert again.source == f"TFDS files in {tmp_path / 'tfds/fashion_mnist/3.0.1'}"
    assert len(server.requests) == requests

    assert os.listdir(tmp_path / "tfds") == ["fashion_mnist"]
    assert os.listdir(tmp_path / "tfds/fashion_mnist") == ["3.0.1"]
    assert not list(temporary.glob("cgan_jax*"))
    assert capfd.readouterr() == ("", "")
    assert {record.name for record in caplog.records} == {"cgan_jax"}

    stock = tfds.data_source("fashion_mnist", data_dir=tmp_path / "tfds", download=False)
    assert len(stock["train"]) == 40


def prepare(spec):
    with tempfile.TemporaryDirectory(prefix="cgan_jax-") as downloads:
        return tfds_download.prepare(spec, Path(downloads))


def cut(name, data):
    return (data[:100], len(data)) if name.startswith("t10k-images") else (data, len(data))


def flipped(name, data):
    spoilt = data[:-20] + bytes([data[-20] ^ 1]) + data[-19:]
    return (spoilt if name.startswith("train-images") else data), len(data)


def too_long(name, data):
    return data + b"more", len(data) + 4


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, "was cut after 100 of"),
        (flipped, "wrong checksum"),
        (too_long, "wrong checksum"),
    ],
)
def test_a_bad_download_gives_one_line_and_leaves_nothing(
    tiny, server, temporary, tmp_path, spoil, message
):
    good, server.spoil = server.spoil, spoil
    with pytest.raises(DataError, match=message) as caught:
        prepare(tiny.spec)
    assert len(str(caught.value).splitlines()) == 1
    assert not [path for path in (tmp_path / "tfds").rglob("*") if path.is_file()]
    assert not list(temporary.glob("cgan_jax*"))
    server.spoil = good
    same(load(), tiny.arrays["train"])


def test_the_probe_detects_a_failing_server(tiny, server, tmp_path):
    server.directory = tmp_path
    with pytest.raises(DataError, match="no answer from 127.0.0.1"):
        prepare(tiny.spec)


def test_a_closed_port_fails_at_once(tiny, server, tmp_path, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}/"
    stock = tfds.image_classification.FashionMNIST
    monkeypatch.setattr(stock, "URL", closed)
    monkeypatch.setattr(
        stock, "url_infos", {closed + i.filename: i for i in stock.url_infos.values()}
    )
    start = time.monotonic()
    with pytest.raises(DataError, match="refused"):
        prepare(tiny.spec)
    assert time.monotonic() - start < 2


def test_a_silent_server_costs_no_more_than_the_probe(tiny, server, tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_download, "_PROBE_SECONDS", 0.2)
    release = threading.Event()
    server.spoil = lambda name, data: (release.wait(10), (data, len(data)))[1]
    start = time.monotonic()
    with pytest.raises(DataError, match="no answer from"):
        prepare(tiny.spec)
    assert time.monotonic() - start < 2
    release.set()


def test_a_slow_name_lookup_costs_no_more_than_the_probe(tiny, server, tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_download, "_PROBE_SECONDS", 0.1)
    release = threading.Event()
    monkeypatch.setattr(
        tfds_download.urllib.request, "urlopen", lambda *_, **__: release.wait(10) and None
    )
    with pytest.raises(DataError, match="no answer from .* within"):
        prepare(tiny.spec)
    release.set()


def test_without_tfds_the_other_sources_are_tried(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(DataError, match="TFDS cannot be imported"):
        prepare(tiny.spec)


def test_an_unregistered_file_is_not_downloaded(tiny, server, tmp_path, monkeypatch):
    monkeypatch.setattr(tfds.image_classification.FashionMNIST, "url_infos", None)
    with pytest.raises(DataError, match="registers no checksums of Tiny-MNIST"):
        prepare(tiny.spec)
    assert not server.requests


@pytest.mark.parametrize("place", ["taken", "unwritable"])
def test_without_the_usual_directory_a_temporary_one_is_used(
    tiny, server, temporary, tmp_path, monkeypatch, place
):
    root = tmp_path / "tfds"
    if place == "taken":
        mine = root / "fashion_mnist/3.0.1/mine.tfrecord"
        mine.parent.mkdir(parents=True)
        mine.write_bytes(b"precious")
    else:
        root.write_bytes(b"a file: not even root can write below it")
    same(load(), tiny.arrays["train"])
    assert not list(temporary.glob("cgan_jax*"))
    assert place == "unwritable" or os.listdir(mine.parent) == ["mine.tfrecord"]


@pytest.mark.parametrize("below", ["", "fashion_mnist/3.0.1"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_reads_a_named_directory(tiny, prepared, below, split):
    read = load(split=split, data_dir=prepared / below)
    same(read, tiny.arrays[split])
    assert read.source == f"TFDS files in {prepared / 'fashion_mnist/3.0.1'}"


@pytest.fixture
def copy(prepared, tmp_path):
    return Path(shutil.copytree(prepared / "fashion_mnist/3.0.1", tmp_path / "copy"))


def change_info(directory, **changes):
    path = directory / "dataset_info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def shorten(directory):
    data = next(directory.glob("*-train.array_record*"))
    data.write_bytes(data.read_bytes()[:1000])


def replace_split(directory):
    train, test = (next(directory.glob(f"*-{s}.array_record*")) for s in ("train", "test"))
    shutil.copy(test, train)


BROKEN = {
    "tfrecord": (lambda d: change_info(d, fileFormat="tfrecord"), "tfrecord files, which need"),
    "unnamed format": (lambda d: change_info(d, fileFormat=None), "None files, which need"),
    "other set": (lambda d: change_info(d, name="mnist"), "data set 'mnist'"),
    "no splits": (lambda d: change_info(d, splits=[]), "0 examples in its train split"),
    "odd splits": (lambda d: change_info(d, splits=[3]), "not a TFDS description"),
    "no JSON": (lambda d: (d / "dataset_info.json").write_text("{"), "not a TFDS description"),
    "a list": (lambda d: (d / "dataset_info.json").write_text("[]"), "not a TFDS description"),
    "no features": (lambda d: (d / "features.json").unlink(), "cannot read the TFDS files"),
    "cut": (shorten, "cannot read the TFDS files"),
    "other split": (replace_split, "cannot read the TFDS files"),
}


@pytest.mark.parametrize(("spoil", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_directory_is_refused(tiny, copy, spoil, message):
    spoil(copy)
    with pytest.raises(DataError, match=message) as caught:
        load(data_dir=copy)
    assert str(copy) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_other_contents_are_refused(tiny, copy):
    images, labels = tiny.spec.splits["train"]
    split = SplitSpec(images, labels._replace(sha256="0" * 64))
    spec = dataclasses.replace(tiny.spec, splits={**tiny.spec.splits, "train": split})
    with pytest.raises(DataError, match="train labels in .* are not Tiny-MNIST's"):
        tfds_files.read(spec, "train", copy)


def test_the_usual_root_is_that_of_tfds(monkeypatch, tmp_path):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tfds_files.usual_root() == tmp_path / "tensorflow_datasets"


def test_the_newest_version_comes_first(tiny, tmp_path):
    for version in ("3.0.9", "3.0.10", "3.1.0", "tmp"):
        (tmp_path / "fashion_mnist" / version).mkdir(parents=True)
    for version in ("3.0.9", "3.0.10", "tmp"):
        (tmp_path / "fashion_mnist" / version / "dataset_info.json").touch()
    assert tfds_files.find(tiny.spec.name, tmp_path) == tmp_path / "fashion_mnist/3.0.10"
