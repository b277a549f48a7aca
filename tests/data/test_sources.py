"""Where training takes its batches from: a data set on the device or the host, and iterables.

That runs take them in this order, and resume from an iterable, is in training/test_chunks.py and
training/test_train.py.
"""

import os
import subprocess
import sys
import threading
import tracemalloc
from itertools import pairwise
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax import random

from cgan_jax.data import Batch, Dataset, DatasetSource, IterableSource, sources
from cgan_jax.data.sources import as_source, steps_per_epoch
from cgan_jax.errors import ConfigError, DataError
from cgan_jax.training.step import run_keys
from tests.helpers import ROOT

KEY = run_keys(0).order


def numbered(n, size=(4, 4, 1)):
    """A data set in which each image's pixels are its number, and its label another number."""
    images = np.empty((n, *size), np.uint8)
    images[:] = (np.arange(n) % 256)[:, None, None, None]
    labels = np.random.default_rng(0).integers(0, 10, n)
    return Dataset.from_arrays(images, labels, tuple("0123456789"))


def numbers(batch):
    """Which images a batch, or the batches of several steps, have."""
    assert (np.asarray(batch.images) == np.asarray(batch.images)[..., :1, :1, :1]).all()
    return np.asarray(batch.images)[..., 0, 0, 0]


def epoch_of(source, epoch, n=100):
    """All batches of an epoch, in chunks of at most n steps."""
    step, end, batches = epoch * source.steps_per_epoch, (epoch + 1) * source.steps_per_epoch, []
    while step < end:
        chunk = source.batches(step, min(n, end - step))
        assert 1 <= len(chunk.labels) <= n
        batches += [Batch(*pair) for pair in zip(*map(np.asarray, chunk), strict=True)]
        step += len(chunk.labels)
    return batches


def assert_batches_equal(ones, others):
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)


# A data set


def test_report_epoch_has_938_batches_the_last_of_32():
    assert steps_per_epoch(60_000, 64) == 938
    assert 200 * steps_per_epoch(60_000, 64) == 187_600
    source = DatasetSource(numbered(60_000, (1, 1, 1)), 64, KEY)
    assert source.steps_per_epoch == 938
    step, shapes = 0, []
    while step < 938:
        batch = source.batches(step, min(300, 938 - step))
        shapes.append(batch.labels.shape)
        assert batch.images.shape == (*batch.labels.shape, 1, 1, 1)
        step += len(batch.labels)
    assert shapes == [(300, 64), (300, 64), (300, 64), (37, 64), (1, 32)]


def test_evenly_divided_epoch_has_no_smaller_batch():
    source = DatasetSource(numbered(12), 4, KEY)
    assert source.steps_per_epoch == steps_per_epoch(12, 4) == 3
    assert [batch.labels.shape for batch in epoch_of(source, 0)] == [(4,)] * 3


@pytest.mark.parametrize("placement", ["device", "host"])
def test_an_epoch_shows_every_image_once_in_an_order_of_its_own(placement):
    """Each with its label; the last batch has the images that are left."""
    dataset, orders = numbered(22), []
    source = DatasetSource(dataset, 4, KEY, placement=placement)
    for epoch in range(3):
        batches = epoch_of(source, epoch)
        assert [len(batch.labels) for batch in batches] == [4, 4, 4, 4, 4, 2]
        order = np.concatenate([numbers(batch) for batch in batches])
        np.testing.assert_array_equal(order, random.permutation(random.fold_in(KEY, epoch), 22))
        assert sorted(order) == list(range(22))
        labels = np.concatenate([batch.labels for batch in batches])
        np.testing.assert_array_equal(labels, dataset.labels[order])
        assert labels.dtype == np.int32
        orders.append(order.tolist())
    assert len({tuple(order) for order in [*orders, range(22)]}) == 4


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("n", [1, 3, 4, 100])
def test_device_and_host_give_the_same_batches_however_many_at_a_time(n, balance):
    whole = DatasetSource(numbered(22), 4, KEY, balance=balance, placement="device")
    source = DatasetSource(numbered(22), 4, KEY, balance=balance, placement="host")
    assert (whole.placement, source.placement) == ("device", "host")
    for epoch in range(3):
        assert_batches_equal(epoch_of(source, epoch, n), epoch_of(whole, epoch))


@pytest.mark.parametrize("placement", ["device", "host"])
def test_a_run_may_begin_at_any_step(placement):
    """As a resumed one does; and go back, as a second run with the same source."""
    batches = [each for e in range(3) for each in epoch_of(DatasetSource(numbered(22), 4, KEY), e)]
    source = DatasetSource(numbered(22), 4, KEY, placement=placement)
    for step in (9, 10, 17, 3, 5, 0):
        chunk = source.batches(step, 1)
        assert_batches_equal([Batch(*(rows[0] for rows in chunk))], [batches[step]])


def test_the_host_reads_one_chunk_ahead(monkeypatch):
    """In a thread of its own, as many steps as ever were asked for, since chunks vary in length."""
    reads, is_read, take_into = [], threading.Semaphore(0), sources._take_into

    def recorded(images, rows, out):
        take_into(images, rows, out)
        reads.append((threading.current_thread() is threading.main_thread(), rows.tolist()))
        is_read.release()

    monkeypatch.setattr(sources, "_take_into", recorded)
    source = DatasetSource(numbered(30), 4, KEY, placement="host")
    order, next_order = (
        np.asarray(random.permutation(random.fold_in(KEY, epoch), 30)).tolist() for epoch in (0, 1)
    )
    chunks, asked = [], ((0, 1, 2), (1, 2, 4), (3, 2, 5), (5, 1, 6), (6, 2, 7), (7, 1, 8))
    for step, n, n_reads in asked:
        chunks.append(numbers(source.batches(step, n)).ravel().tolist())
        while len(reads) < n_reads:
            assert is_read.acquire(timeout=60)
        assert len(reads) == n_reads
    ends = (0, 4, 12, 20, 24, 28, 30)
    assert chunks == [order[start:end] for start, end in pairwise(ends)]
    assert (
        reads
        == [
            (True, order[:4]),
            (False, order[4:8]),
            (True, order[4:12]),  # more than ever before
            (False, order[12:20]),
            (False, order[20:28]),  # of which one step was asked for
            (False, order[24:28]),
            (False, order[28:]),
            (False, next_order[:8]),
        ]
    )


@pytest.mark.parametrize("placement", ["auto", "host"])
def test_a_large_mapped_array_is_not_loaded_whole(placement, tmp_path, monkeypatch):
    """Its few rows that a chunk needs are all that memory is taken for."""
    shape = (256, 256, 256, 3)  # 50 MB
    images = np.memmap(tmp_path / "images", np.uint8, "w+", shape=shape)
    images[:] = np.arange(256)[:, None, None, None]
    dataset = Dataset(images, np.zeros(256, np.int32), ("one",), "mapped", "a file")
    monkeypatch.setattr(sources, "LARGE", images.nbytes)
    tracemalloc.start()
    source = DatasetSource(dataset, 4, KEY, placement=placement)
    got = [numbers(source.batches(step, 2)) for step in (0, 2)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert source.placement == "host"
    assert "read from the host" in str(source)
    np.testing.assert_array_equal(
        np.ravel(got), random.permutation(random.fold_in(KEY, 0), 256)[:16]
    )
    assert peak < images.nbytes / 4


def test_a_small_mapped_array_is_copied_where_nobody_changes_it(tmp_path):
    images = np.memmap(tmp_path / "images", np.uint8, "w+", shape=(22, 4, 4, 1))
    source = DatasetSource(
        Dataset(images, np.zeros(22, np.int32), ("one",), "mapped", "a file"), 4, KEY
    )
    assert source.placement == "device"
    assert "in memory" in str(source)
    images[:] = 7
    assert not source.batches(0, 5).images.any()


def test_where_images_are_kept_on_an_accelerator(monkeypatch):
    """On the device, up to a share of its memory; batches are then gathered there."""
    dataset = numbered(22)
    whole = epoch_of(DatasetSource(dataset, 4, KEY), 1)
    stats = {}
    device = SimpleNamespace(memory_stats=lambda: stats)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(sources.jax, "devices", lambda: [device])
    for memory, placement in ((4 * 22 * 16, "device"), (4 * 22 * 16 - 4, "host")):
        stats["bytes_limit"] = memory
        assert DatasetSource(dataset, 4, KEY).placement == placement
    source = DatasetSource(dataset, 4, KEY, placement="device")
    assert "in the device's memory" in str(source)
    assert isinstance(source.batches(0, 1).images, jax.Array)
    assert_batches_equal(epoch_of(source, 1), whole)


def test_an_unknown_placement_is_refused():
    with pytest.raises(ConfigError, match=r"placement is 'disk'\nexpected auto, device or host"):
        DatasetSource(numbered(22), 4, KEY, placement="disk")


# Each device looks only at its own rows: an array that tells which rows it was asked for.
SHARES = """
import numpy as np
from jax.sharding import PartitionSpec
from cgan_jax.data import DatasetSource
from cgan_jax.training.sharding import AXIS, data_mesh
from tests.data.test_sources import KEY, numbered, numbers

class Asked(np.ndarray):
    rows = []

    def __getitem__(self, index):
        self.rows.append(tuple(np.ravel(index).tolist()))
        return np.asarray(self)[index]

def halves(batch):
    return {tuple(half.ravel().tolist()) for half in np.split(numbers(batch), 2, axis=1)}

dataset = numbered(22)
whole, mesh = DatasetSource(dataset, 4, KEY), data_mesh(2)
object.__setattr__(dataset, "images", dataset.images.view(Asked))
source, expected = DatasetSource(dataset, 4, KEY, mesh=mesh), set()
for step, n in ((0, 3), (3, 2), (5, 1), (6, 3)):
    batch, all_rows = source.batches(step, n), whole.batches(step, n)
    for array, rows in zip(batch, all_rows):
        assert array.sharding.spec == PartitionSpec(None, AXIS), array.sharding
        shards = sorted(array.addressable_shards, key=lambda shard: shard.device.id)
        for shard, half in zip(shards, np.split(rows, 2, axis=1), strict=True):
            np.testing.assert_array_equal(shard.data, half)
    expected |= halves(all_rows)
    assert expected <= set(Asked.rows)
assert set(Asked.rows) <= expected | halves(whole.batches(9, 2))  # which is read ahead

indivisible = DatasetSource(numbered(21), 4, KEY, mesh=mesh)
last = indivisible.batches(5, 1)
assert last.images.shape[:2] == (1, 1)
assert last.images.sharding.is_fully_replicated
"""


def test_each_of_two_devices_gets_its_part_of_each_batch():
    """And of no other part the images; what cannot be split equally, both get whole."""
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "2"}
    done = subprocess.run(
        [sys.executable, "-c", SHARES], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# An iterable


def item(number, size=4, **changes):
    """A batch in which each image's pixels are its number, as a loader gives it."""
    images = np.arange(size, dtype=np.uint8) + 10 * number
    pair = {"images": images[:, None, None, None], "labels": np.arange(size) % 3} | changes
    return pair["images"], pair["labels"]


class Loader:
    """Begins again each time; counts the batches that were read."""

    def __init__(self, *sizes):
        self.sizes, self.n_read = sizes, 0

    def __len__(self):
        return len(self.sizes)

    def __iter__(self):
        for number, size in enumerate(self.sizes):
            self.n_read += 1
            yield item(number, size)


def firsts(source, step, n):
    """The first image of each batch of a chunk."""
    return (numbers(source.batches(step, n))[:, 0] / 10).tolist()


def test_a_list_is_an_epoch_and_begins_again():
    source = IterableSource([item(0), item(1), item(2)])
    assert source.steps_per_epoch == 3
    assert "list" in str(source)
    assert [firsts(source, *at) for at in ((0, 3), (3, 2), (5, 1), (6, 3))] == [
        [0, 1, 2],
        [0, 1],
        [2],
        [0, 1, 2],
    ]
    batch = source.batches(9, 2)
    assert (batch.images.dtype, batch.images.shape) == (np.uint8, (2, 4, 1, 1, 1))
    assert (batch.labels.dtype, batch.labels.tolist()) == (np.int32, [[0, 1, 2, 0]] * 2)


def test_batches_of_other_sizes_are_chunks_of_their_own():
    """As a loader's smaller last batch; it is not read twice."""
    loader = Loader(4, 4, 2, 3)
    source = IterableSource(loader)
    assert [source.batches(step, n).labels.shape for step, n in ((0, 4), (2, 2), (3, 1))] == [
        (2, 4),
        (1, 2),
        (1, 3),
    ]
    assert loader.n_read == 4


def test_an_endless_generator_needs_the_length_of_an_epoch():
    def endless():
        number = 0
        while True:
            yield item(number % 20)
            number += 1

    with pytest.raises(ConfigError, match=r"generator does not say.*\nexpected.*\nPass Iterable"):
        IterableSource(endless())
    source = IterableSource(endless(), steps_per_epoch=5)
    assert source.steps_per_epoch == 5
    assert [firsts(source, *at) for at in ((0, 5), (5, 2), (7, 3))] == [
        [0, 1, 2, 3, 4],
        [5, 6],
        [7, 8, 9],
    ]
    for wrong in (0, 1.5):
        with pytest.raises(ConfigError, match="steps_per_epoch must be"):
            IterableSource(endless(), steps_per_epoch=wrong)


@pytest.mark.parametrize("n", [0, 3])
def test_a_generator_that_ends_is_an_error(n):
    source = IterableSource((item(number) for number in range(n)), steps_per_epoch=2)
    if n:
        source.batches(0, 2)
    with pytest.raises(DataError, match=f"generator has no batches after {n} steps\n.*\nPass a li"):
        source.batches(2 if n else 0, 2)


def test_a_run_that_resumes_skips_what_is_done():
    """Also one that goes back, as a second run with the same loader does."""
    loader = Loader(4, 4, 4, 4, 4)
    source = IterableSource(loader)
    assert firsts(source, 7, 2) == [2, 3]
    assert loader.n_read == 5 + 4
    assert firsts(source, 3, 2) == [3, 4]
    assert firsts(source, 0, 2) == [0, 1]


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        5,
        "ab",
        item(0)[0],
        (*item(0), 1),
        item(0, images=np.zeros((4, 2, 2, 1), np.float32)),
        item(0, images=np.zeros((4, 2, 2), np.uint8)),
        item(0, images=np.zeros((3, 2, 2, 1), np.uint8)),
        item(0, images=[np.zeros(2), np.zeros(3)]),
        item(0, labels=np.zeros(4)),
        item(0, labels=np.zeros((4, 2), int)),
        item(0, labels=np.full(4, 2**31)),
        item(0, labels=["a", "b", "c", "d"]),
    ],
    ids=lambda wrong: None,
)
def test_what_is_no_batch_is_refused(wrong):
    source = IterableSource([item(0), wrong])
    with pytest.raises(DataError, match=r"the data give .*\nexpected .*\n[A-Z].*\."):
        source.batches(0, 2)


def test_labels_may_be_vectors_and_arrays_anything_that_numpy_takes():
    images, labels = item(0, labels=[[0.5, 1.5]] * 4)
    source = IterableSource([[images.tolist() and images, labels]])
    batch = source.batches(0, 1)
    assert (batch.labels.dtype, batch.labels.shape) == (np.float32, (1, 4, 2))
    images, labels = map(jax.numpy.asarray, item(1))
    assert firsts(IterableSource([(images, labels)]), 0, 1) == [1]


# What `train` takes


def test_what_becomes_a_source():
    options = {"batch_size": 4, "order_key": KEY}
    source = as_source(numbered(22), **options)
    assert isinstance(source, DatasetSource)
    assert source.steps_per_epoch == 6
    assert as_source(source, **options) is source
    assert isinstance(as_source([item(0)], **options), IterableSource)
    own = SimpleNamespace(steps_per_epoch=3, batches=lambda step, n: None)
    assert as_source(own, **options) is own
    with pytest.raises(ConfigError, match=r"the data are 5\nexpected a Dataset.*\nPass"):
        as_source(5, **options)
