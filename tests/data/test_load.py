"""`load` and the cache: order of the sources, cached files, refused files, messages."""

import gzip
import logging
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cgan_jax.data import cache, debian, idx, load, tfds_download, tfds_files
from cgan_jax.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise DataError("no network\nexpected one")

    monkeypatch.setattr(tfds_download, "prepare", refuse)
    monkeypatch.setattr(debian, "fetch", refuse)


@pytest.fixture
def idx_dir(tiny, tmp_path):
    """A copy of the idx files that a test may change."""
    return Path(shutil.copytree(tiny.idx_dir, tmp_path / "idx"))


@pytest.fixture
def installed(tiny):
    """The files of an installed Debian package."""
    shutil.copytree(tiny.idx_dir, tiny.spec.debian_dir)
    yield tiny.spec.debian_dir
    shutil.rmtree(tiny.spec.debian_dir, ignore_errors=True)


@pytest.fixture
def reads(monkeypatch):
    """The directories that idx files or TFDS files were actually read from."""
    directories = []
    for module in (idx, tfds_files):

        def read(spec, split, place, *, inner=module.read):
            directory = place if isinstance(place, Path) else place[0].parent
            if "cache" not in directory.parts:
                directories.append(directory)
            return inner(spec, split, place)

        monkeypatch.setattr(module, "read", read)
    return directories


def same(dataset, arrays):
    assert dataset.images.dtype == np.uint8
    assert dataset.labels.dtype == np.int32
    np.testing.assert_array_equal(dataset.images, arrays.images[..., np.newaxis])
    np.testing.assert_array_equal(dataset.labels, arrays.labels)


# Sources


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_source_gives_the_same_bits(tiny, prepared, installed, tmp_path, split, monkeypatch):
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, data in tiny.idx_bytes().items():
        (raw / name).write_bytes(data)
    places = [
        {"data_dir": raw},
        {"data_dir": tiny.idx_dir},
        {"data_dir": str(prepared)},
        {},
    ]
    for i, place in enumerate(places):
        fresh = load(split=split, cache_dir=tmp_path / f"cache{i}", **place)
        same(fresh, tiny.arrays[split])
        assert "cache" not in fresh.source
        same(load(split=split, cache_dir=tmp_path / f"cache{i}", **place), tiny.arrays[split])
    assert fresh.name == "fashion_mnist"
    assert fresh.class_names[9] == "Ankle boot"


def test_the_real_data_are_the_published_ones(fashion_mnist, fashion_mnist_test):
    assert fashion_mnist.images.shape == (60_000, 28, 28, 1)
    assert fashion_mnist_test.images.shape == (10_000, 28, 28, 1)
    assert fashion_mnist.labels[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert fashion_mnist_test.labels[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    assert np.bincount(fashion_mnist.labels).tolist() == [6_000] * 10


def test_real_idx_files_gzipped_and_raw_give_the_same_bits(fashion_mnist_test, tmp_path):
    from cgan_jax.data.spec import FASHION_MNIST

    split = FASHION_MNIST.splits["test"]
    images, labels = fashion_mnist_test.images[..., 0], fashion_mnist_test.labels.astype(np.uint8)
    for file, array in zip(split, (images, labels), strict=True):
        data = idx.header(array.shape) + array.tobytes()
        (tmp_path / file.name).write_bytes(data)
        (tmp_path / f"{file.name}.gz").write_bytes(gzip.compress(data, compresslevel=1))
    raw = load(split="test", data_dir=tmp_path, cache_dir=tmp_path / "cache1")
    for file in split:
        (tmp_path / file.name).unlink()
    zipped = load(split="test", data_dir=tmp_path, cache_dir=tmp_path / "cache2")
    np.testing.assert_array_equal(raw.images, fashion_mnist_test.images)
    np.testing.assert_array_equal(zipped.images, fashion_mnist_test.images)
    np.testing.assert_array_equal(zipped.labels, fashion_mnist_test.labels)


def test_a_directory_that_tfds_prepared_comes_before_an_installed_package(
    tiny, prepared, installed, monkeypatch, reads
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    load()
    assert reads == [prepared / "fashion_mnist/3.0.1"]


def test_an_unusable_source_is_skipped_with_a_log_line(tiny, installed, tmp_path, caplog):
    caplog.set_level(logging.INFO, "cgan_jax")
    broken = tmp_path / "tfds/fashion_mnist/3.0.1"
    broken.mkdir(parents=True)
    (broken / "dataset_info.json").write_text('{"name": "fashion_mnist", "fileFormat": "tfrecord"}')
    read = load()
    assert read.source == f"idx files in {installed}"
    assert f"not from TFDS's directory: {broken} holds tfrecord files" in caplog.messages[0]
    assert caplog.messages[-1] == f"Tiny-MNIST train: 40 images from {read.source}"
    assert all("\n" not in message for message in caplog.messages)


def test_a_file_system_error_skips_a_source(tiny, monkeypatch):
    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tfds_download, "prepare", no_space)
    with pytest.raises(DataError, match="TFDS .*No space left on device"):
        load()


def test_without_any_source_the_error_lists_all_and_what_to_do(tiny, tmp_path):
    with pytest.raises(DataError) as caught:
        load()
    culprit, tried, hint = str(caught.value).splitlines()
    assert culprit == "no source has Tiny-MNIST"
    assert tried == (
        f"tried TFDS's directory (the directory {tmp_path / 'tfds'} does not exist); "
        f"an installed Debian package (the directory {tiny.spec.debian_dir} does not exist); "
        "a download through TFDS (no network); the Debian package (no network)"
    )
    assert "--data-dir" in hint
    assert "apt install dataset-fashion-mnist" in hint
    assert not (tmp_path / "tfds").exists()


@pytest.mark.parametrize("arguments", [{"name": "fashion"}, {"split": "validation"}])
def test_unknown_names_are_refused_with_the_known_ones(arguments):
    with pytest.raises(ConfigError, match="expected one of (fashion_mnist|train, test)"):
        load(**arguments)


# A named directory


def test_a_named_directory_that_is_not_one(tiny, installed, tmp_path):
    (tmp_path / "file").touch()
    for name in ("absent", "file"):
        with pytest.raises(DataError, match=f"{tmp_path / name} does not exist"):
            load(data_dir=tmp_path / name)


def spoil_labels(directory):
    path = directory / "train-labels-idx1-ubyte.gz"
    data = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(data[:-1] + b"\x0a"))


def swap_one_pixel(directory):
    path = directory / "train-images-idx3-ubyte.gz"
    data = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(data[:-1] + bytes([data[-1] ^ 1])))


def drop(*names):
    return lambda directory: [(directory / f"{name}.gz").unlink() for name in names]


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
BROKEN = {
    "empty": (drop(IMAGES, LABELS), "holds no Tiny-MNIST train split"),
    "no images": (drop(IMAGES), f"lacks {IMAGES}"),
    "no labels": (drop(LABELS), f"lacks {LABELS}"),
    "label range": (spoil_labels, "train labels in .* are not Tiny-MNIST's"),
    "other pixel": (swap_one_pixel, "train images in .* are not Tiny-MNIST's"),
    "text": (lambda d: (d / f"{IMAGES}.gz").write_text("text"), f"{IMAGES}.gz is not such an idx"),
}


@pytest.mark.parametrize(("spoil", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_named_directory_is_refused_despite_other_sources(
    tiny, installed, idx_dir, spoil, message
):
    load(data_dir=idx_dir)
    spoil(idx_dir)
    with pytest.raises(DataError, match=message) as caught:
        load(data_dir=idx_dir)
    assert str(idx_dir) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_a_split_needs_only_its_own_files(tiny, idx_dir):
    drop(IMAGES, LABELS)(idx_dir)
    same(load(split="test", data_dir=idx_dir), tiny.arrays["test"])


def test_an_unchanged_named_directory_is_served_from_the_cache(tiny, idx_dir, reads):
    first = load(data_dir=idx_dir)
    assert first.source == f"idx files in {idx_dir}"
    second = load(data_dir=os.path.relpath(idx_dir))
    same(second, tiny.arrays["train"])
    assert second.source.endswith(f"(first read from idx files in {idx_dir})")
    assert reads == [idx_dir]


def test_a_changed_or_another_named_directory_is_read_again(tiny, idx_dir, tmp_path, reads):
    load(data_dir=idx_dir)
    os.utime(idx_dir / f"{LABELS}.gz", ns=(1, 1))
    load(data_dir=idx_dir)
    other = Path(shutil.copytree(idx_dir, tmp_path / "other"))
    load(data_dir=other)
    assert reads == [idx_dir, idx_dir, other]
    load(data_dir=idx_dir)
    load(data_dir=other)
    assert len(reads) == 3


def test_a_named_directory_is_read_although_another_source_is_cached(
    tiny, installed, idx_dir, reads
):
    load()
    load(data_dir=idx_dir)
    assert reads == [installed, idx_dir]


def test_a_cached_named_directory_is_used_when_none_is_named(tiny, idx_dir, reads):
    load(data_dir=idx_dir)
    same(load(), tiny.arrays["train"])
    assert reads == [idx_dir]


# The cache


def test_the_cache_is_used_when_the_source_is_gone(tiny, installed, tmp_path, reads):
    load()
    shutil.rmtree(installed)
    again = load()
    same(again, tiny.arrays["train"])
    assert again.images.flags.writeable
    assert again.source == (
        f"the cache in {tmp_path / 'cache'} (first read from idx files in {installed})"
    )
    assert len(reads) == 1


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"\0")


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("name", [IMAGES, LABELS])
@pytest.mark.parametrize("spoil", [cut, flip, lengthen, empty])
def test_a_damaged_cache_is_detected_and_rebuilt(
    tiny, installed, tmp_path, reads, caplog, name, spoil
):
    load()
    caplog.set_level(logging.INFO, "cgan_jax")
    spoil(tmp_path / "cache/fashion_mnist" / name)
    same(load(), tiny.arrays["train"])
    assert len(reads) == 2
    messages = [m for m in caplog.messages if "unusable" in m]
    assert len(messages) == 1
    damage = {cut: "is cut short", lengthen: "has bytes after", empty: "is not such an idx file"}
    what = "images" if name == IMAGES else "labels"
    culprit = f"the train {what} in" if spoil is flip else f"{name} {damage[spoil]}"
    assert culprit in messages[0]
    same(load(), tiny.arrays["train"])
    assert len(reads) == 2


def test_a_missing_cache_file_is_rebuilt(tiny, installed, tmp_path, reads):
    for name in (IMAGES, LABELS, "train.source"):
        load()
        (tmp_path / "cache/fashion_mnist" / name).unlink()
    load()
    assert len(reads) == 4


def test_a_read_only_cache_costs_one_log_line(tiny, installed, tmp_path, caplog):
    caplog.set_level(logging.INFO, "cgan_jax")
    # Below a file nobody can write, not even root.
    (tmp_path / "file").touch()
    for cache_dir in (tmp_path / "file", tmp_path / "file/below"):
        caplog.clear()
        same(load(cache_dir=cache_dir), tiny.arrays["train"])
        assert sum("cannot cache" in message for message in caplog.messages) == 1


def test_a_failed_write_leaves_nothing(tiny, installed, tmp_path, monkeypatch):
    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.os, "replace", no_space)
    same(load(), tiny.arrays["train"])
    assert not os.listdir(tmp_path / "cache/fashion_mnist")


def test_parallel_loads_agree_and_leave_complete_files(tiny, installed, idx_dir, tmp_path):
    places = [None, idx_dir] * 8
    with ThreadPoolExecutor(8) as pool:
        for dataset in pool.map(lambda place: load(data_dir=place), places):
            same(dataset, tiny.arrays["train"])
    names = os.listdir(tmp_path / "cache/fashion_mnist")
    assert sorted(n for n in names if not n.endswith(".source")) == [IMAGES, LABELS]
    assert "cache" in load().source


def test_the_cache_directory_is_the_variables_or_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("CGAN_JAX_CACHE", "~/mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.default_directory() == tmp_path / "mine"
    monkeypatch.setenv("CGAN_JAX_CACHE", "")
    assert cache.default_directory().name == "cgan_jax"
    assert tmp_path in cache.default_directory().parents


def test_importing_the_package_is_cheap():
    script = (
        "import sys, cgan_jax.data; "
        "heavy = {'jax', 'tensorflow', 'tensorflow_datasets', 'matplotlib', 'PIL', 'requests'}; "
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
