"""Dataset accepts what its docstring says. What it refuses is in test_bad_input.py."""

import numpy as np

from cgan_jax.data import Dataset

IMAGES = np.zeros((3, 4, 5, 1), np.uint8)
LABELS = np.array([0, 1, 1], np.int32)


def test_length_is_the_number_of_images():
    assert len(Dataset(IMAGES, LABELS, ("a", "b"), "toy", "memory")) == 3


def test_from_arrays_adds_the_channel_and_widens_labels():
    made = Dataset.from_arrays(IMAGES[..., 0], [0, 1, 1], ["a", "b"], name="mine")
    assert made.images.shape == (3, 4, 5, 1)
    assert made.labels.dtype == np.int32
    assert made.class_names == ("a", "b")
    assert made.name == "mine"
