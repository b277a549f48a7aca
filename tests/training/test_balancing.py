"""The order of a balanced epoch, and that single runs, devices and sweeps take their images in it.

That a balanced run resumes to the same bits is in test_train.py.
"""

from dataclasses import replace

import numpy as np
import pytest
from jax import random

from cgan_jax.training import sweep
from cgan_jax.training.balancing import balanced_order
from cgan_jax.training.gan import GAN
from cgan_jax.training.sharding import data_mesh
from cgan_jax.training.spans import JittedFns, Spans
from cgan_jax.training.steps import run_keys

COUNTS = {0: 50, 1: 7, 2: 1, 4: 30}  # images of each class; the data have none of class 3
LABELS = np.random.default_rng(0).permutation(np.repeat(list(COUNTS), list(COUNTS.values())))
KEY = run_keys(0).order


def test_each_epoch_has_as_many_images_of_each_class():
    orders = [balanced_order(LABELS, KEY, epoch) for epoch in range(7)]
    for order in orders:
        assert (order.dtype, order.shape) == (np.int32, LABELS.shape)
        assert np.bincount(LABELS[order]).tolist() == [22, 22, 22, 0, 22]
    assert len({order.tobytes() for order in orders}) == 7
    np.testing.assert_array_equal(balanced_order(LABELS, KEY, 3), orders[3])
    assert (balanced_order(LABELS, run_keys(1).order, 3) != orders[3]).any()


def test_classes_take_turns_in_the_rest_of_an_epoch():
    """Ten images of three classes: three of each and one more, of another class each time."""
    labels = np.array([0] * 8 + [1, 2])
    counts = [np.bincount(labels[balanced_order(labels, KEY, epoch)]) for epoch in range(3)]
    assert sorted(count.tolist() for count in counts) == [[3, 3, 4], [3, 4, 3], [4, 3, 3]]


def test_no_image_of_a_class_comes_again_before_all_the_others():
    """Neither within an epoch nor across epochs; each time in another order."""
    taken = np.concatenate([balanced_order(LABELS, KEY, epoch) for epoch in range(14)])
    for label, n in COUNTS.items():
        own = taken[LABELS[taken] == label]
        cycles = own[: len(own) // n * n].reshape(-1, n)
        assert len(cycles) > 1
        assert {tuple(sorted(cycle)) for cycle in cycles} == {
            tuple(np.flatnonzero(label == LABELS))
        }
        if n > 1:
            assert len({tuple(cycle) for cycle in cycles}) == len(cycles)


def test_where_in_an_epoch_a_class_comes_is_random():
    places = [np.flatnonzero(LABELS[balanced_order(LABELS, KEY, e)] == 2) for e in range(100)]
    assert np.mean(places) == pytest.approx(43.5, abs=2)  # of 0..87
    assert len(np.unique(places)) == len(LABELS)


@pytest.fixture
def unbalanced(tiny_dataset):
    """22 images, each with its number in its pixels: 18, 3 and 1 of a class."""
    images = np.broadcast_to(np.arange(22, dtype=np.uint8)[:, None, None, None], (22, 4, 4, 1))
    labels = np.repeat(np.arange(3, dtype=np.int32), (18, 3, 1))
    return replace(tiny_dataset, images=images, labels=labels)


class Recorder:
    """Stands in for the steps, and keeps which images they would take."""

    def __call__(self, *, state, shuffled, **arguments):
        images = shuffled.images if hasattr(shuffled, "images") else shuffled[-1].images
        self.order = np.asarray(images)[:, 0, 0, 0]
        return state, (np.zeros(6), np.zeros(6))


@pytest.mark.parametrize("balance", [False, True])
def test_single_runs_devices_and_sweeps_take_that_order(
    balance, unbalanced, tiny_config, monkeypatch
):
    config = replace(tiny_config, balance=balance, seed=5)
    record, gan = Recorder(), GAN.from_config(config)
    fns, key = JittedFns(None, record), run_keys(5).order
    monkeypatch.setattr("cgan_jax.training.spans.single_run", lambda *_: fns)
    monkeypatch.setattr(sweep, "_jitted", lambda *_: fns)
    expected = random.permutation(random.fold_in(key, 2), 22)
    if balance:
        expected = balanced_order(unbalanced.labels, key, 2)
    for spans, state in (
        (Spans(gan, unbalanced, 4, run_keys(5), balance=balance), None),
        (Spans(gan, unbalanced, 4, run_keys(5), balance=balance, mesh=data_mesh(1)), None),
        (sweep.member_spans([replace(config, seed=3), config], unbalanced), (None, None)),
    ):
        spans.run(state, 12, 1)
        np.testing.assert_array_equal(record.order, expected)
