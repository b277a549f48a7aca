"""What is held out: a share of each class, the same each time, and never a training image."""

import numpy as np
import pytest

from cgan_jax.data import Dataset
from cgan_jax.data.holdout import hold_out
from cgan_jax.errors import CGANError

COUNTS = (100, 40, 7, 2, 1, 0)


@pytest.fixture(scope="module")
def unique():
    """Different images, as many of each class as COUNTS says, in a random order."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(COUNTS)), COUNTS))
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None].repeat(4, 1)
    return Dataset.from_arrays(images, labels, list("abcdef"), name="unique")


def keys(data):
    return [image.tobytes() for image in data.images]


def test_in_place_gives_the_same_parts_in_half_the_memory():
    """With more images than are moved at once."""
    images = np.random.default_rng(0).integers(0, 256, (2500, 3, 3, 1), np.uint8)
    data = Dataset.from_arrays(images, np.arange(2500) % 7, list("abcdefg"))
    copies = hold_out(data, 0.3, seed=1)
    memory = data.images
    parts = hold_out(data, 0.3, seed=1, in_place=True)
    for part, copy in zip(parts, copies, strict=True):
        np.testing.assert_array_equal(part.images, copy.images)
        np.testing.assert_array_equal(part.labels, copy.labels)
    assert np.shares_memory(parts[0].images, memory)
    assert parts[0].images.flags.c_contiguous


@pytest.mark.parametrize(
    ("share", "held"), [(0.1, [10, 4, 1, 1, 0, 0]), (0.9, [90, 36, 6, 1, 0, 0])]
)
def test_no_image_is_in_both_parts_and_each_class_keeps_one_to_train_on(unique, share, held):
    training, test = hold_out(unique, share, seed=3)
    assert not set(keys(training)) & set(keys(test))
    assert sorted(keys(training) + keys(test)) == sorted(keys(unique))
    assert np.bincount(test.labels, minlength=6).tolist() == held
    assert np.bincount(training.labels, minlength=6).tolist() == [
        n - out for n, out in zip(COUNTS, held, strict=True)
    ]
    label_of = dict(zip(keys(unique), unique.labels.tolist(), strict=True))
    for part in (training, test):
        assert [label_of[key] for key in keys(part)] == part.labels.tolist()
        assert (part.name, part.class_names) == (unique.name, unique.class_names)
        assert part.images.ctypes.data % 64 == 0  # else JAX, on a CPU, would use a copy


def test_the_seed_alone_chooses(unique):
    first, again, other = (hold_out(unique, seed=seed)[1] for seed in (0, 0, 1))
    assert first.identity() == again.identity() != other.identity()
    in_order = [key for key in keys(unique) if key in set(keys(first))]
    assert keys(first) == in_order


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan"), "half", True, None])
def test_shares_that_are_none_are_refused(unique, share):
    with pytest.raises(CGANError, match="holdout must be"):
        hold_out(unique, share)


def test_single_images_alone_cannot_be_held_out():
    images = np.zeros((2, 4, 4), np.uint8)
    with pytest.raises(CGANError, match="no class has two images"):
        hold_out(Dataset.from_arrays(images, [0, 1], ["a", "b"]))
