"""Dataset accepts what its docstring says and refuses everything else."""

import numpy as np
import pytest

from cgan_jax.data import Dataset
from cgan_jax.errors import DataError

IMAGES = np.zeros((3, 4, 5, 1), np.uint8)
LABELS = np.array([0, 1, 1], np.int32)


def make(images=IMAGES, labels=LABELS, class_names=("a", "b")):
    return Dataset(images, labels, class_names, "toy", "memory")


def test_length_is_the_number_of_images():
    assert len(make()) == 3


@pytest.mark.parametrize(
    "broken",
    [
        {"images": IMAGES.tolist()},
        {"images": IMAGES[..., 0]},
        {"images": IMAGES.astype(np.float32)},
        {"images": IMAGES[:0], "labels": LABELS[:0]},
        {"images": IMAGES[:, :0]},
        {"labels": LABELS.astype(np.int64)},
        {"labels": LABELS[:2]},
        {"labels": LABELS[:, np.newaxis]},
        {"labels": LABELS + 1},
        {"labels": LABELS - 1},
        {"class_names": ()},
    ],
)
def test_refuses(broken):
    with pytest.raises(DataError, match="toy: "):
        make(**broken)


def test_from_arrays_adds_the_channel_and_widens_labels():
    made = Dataset.from_arrays(IMAGES[..., 0], [0, 1, 1], ["a", "b"], name="mine")
    assert made.images.shape == (3, 4, 5, 1)
    assert made.labels.dtype == np.int32
    assert made.class_names == ("a", "b")
    assert made.name == "mine"


@pytest.mark.parametrize("labels", [np.array([0.0, 1.0, 1.0]), np.array([0, 1, 2**32])])
def test_from_arrays_refuses_labels_that_would_change(labels):
    with pytest.raises(DataError, match="label"):
        Dataset.from_arrays(IMAGES, labels, ("a", "b"))
