"""Dataset accepts what its docstring says. What it refuses is in test_bad_input.py."""

import numpy as np
import pytest

from cgan_jax.data import Dataset
from cgan_jax.errors import DataError

IMAGES = np.zeros((3, 4, 5, 1), np.uint8)
LABELS = np.array([0, 1, 1], np.int32)


def test_length_is_the_number_of_images():
    assert len(Dataset(IMAGES, LABELS, ("a", "b"), "toy", "memory")) == 3


def test_from_arrays_adds_the_channel_and_widens_labels():
    dataset = Dataset.from_arrays(IMAGES[..., 0], [0, 1, 1], ["a", "b"], name="mine")
    assert dataset.images.shape == (3, 4, 5, 1)
    assert dataset.labels.dtype == np.int32
    assert dataset.class_names == ("a", "b")
    assert dataset.name == "mine"


def test_repr_is_one_short_line():
    names = [f"class {i}" for i in range(300)]
    images, labels = np.zeros((300, 4, 5, 1), np.uint8), np.arange(300)
    dataset = Dataset.from_arrays(images, labels, names, name="toy", source="a\nfile" * 100)
    text = repr(dataset)
    assert text.startswith("Dataset('toy', images=uint8[300, 4, 5, 1], 300 classes ('class 0', ")
    assert "\n" not in text
    assert len(text) < 250


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([3, 1], "class 0: 3, class 1: 1"),
        ([1], "class 0: 1"),
        ([1, 1, 1], "3 classes of 1 image each"),
        (
            [1200, 8, 8, 0, 8, 8, 8, 8, 9, 8, 8],
            "11 classes, from 0 (class 3) to 1,200 (class 0), median 8",
        ),
    ],
)
def test_images_of_each_class_are_counted(counts, words):
    labels = np.repeat(np.arange(len(counts)), counts)
    names = [f"class {i}" for i in range(len(counts))]
    images = np.zeros((len(labels), 1, 1, 1), np.uint8)
    dataset = Dataset.from_arrays(images, labels, names)
    assert dataset.class_counts().tolist() == counts
    assert dataset.count_words() == words


def test_datasets_can_be_compared_and_hashed():
    one, other = (Dataset(IMAGES, LABELS, ("a", "b"), "toy", "memory") for _ in range(2))
    assert one == one
    assert one != other
    assert len({one, other}) == 2


@pytest.mark.parametrize("wrong", [{"name": "\udcff"}, {"class_names": ("a", "\udcff")}])
def test_names_that_cannot_be_encoded_are_refused(wrong):
    good = {"class_names": ("a", "b"), "name": "toy"}
    with pytest.raises(DataError, match=r"\\udcff cannot be written as UTF-8"):
        Dataset(IMAGES, LABELS, source="memory", **good | wrong)
