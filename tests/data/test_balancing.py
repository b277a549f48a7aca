"""The order of a balanced epoch, and that runs on one device and on several take it.

That a balanced run resumes to the same bits is in training/test_train.py.
"""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from cgan_jax.data.balancing import balanced_order
from cgan_jax.training.callbacks import Callback
from cgan_jax.training.gan import GAN
from cgan_jax.training.loop import train
from cgan_jax.training.sharding import data_mesh
from cgan_jax.training.step import Losses, run_keys

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


def record(gan, state, batch, key):
    """In the place of a training step: its losses tell which images and labels it is given."""
    places = 22 ** jnp.arange(4)
    losses = (places[: len(rows)] @ rows for rows in (batch.images[:, 0, 0, 0], batch.labels))
    return state.replace(step=state.step + 1), Losses(*(loss.astype(float) for loss in losses))


@pytest.mark.parametrize("on_mesh", [False, True])
@pytest.mark.parametrize("balance", [False, True])
def test_runs_take_that_order(balance, on_mesh, unbalanced, tiny_config):
    """Three epochs of the run with this seed; in batches of 4, the last of 2."""
    config = replace(tiny_config, balance=balance, seed=5)
    taken, key, mesh = [], run_keys(5).order, data_mesh(1) if on_mesh else None
    recorder = Callback()
    recorder.on_epoch_end = lambda epoch: taken.append(epoch.losses)
    train(GAN.from_config(config), config, unbalanced, step=record, callbacks=[recorder], mesh=mesh)
    assert len(taken) == 3
    for epoch, losses in enumerate(taken):
        order = random.permutation(random.fold_in(key, epoch), 22)
        if balance:
            order = balanced_order(unbalanced.labels, key, epoch)
        for values, array in zip(losses.T, (np.arange(22), unbalanced.labels), strict=True):
            rows = np.append(array[order], [0, 0]).reshape(6, 4)
            np.testing.assert_array_equal(values, rows @ 22 ** np.arange(4))
