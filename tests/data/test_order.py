"""The published order comes back from any other order."""

import numpy as np
import pytest

from cgan_jax.data import idx_files, order
from cgan_jax.data.idx_files import Arrays
from cgan_jax.data.spec import FASHION_MNIST
from cgan_jax.errors import DataError


@pytest.mark.parametrize("seed", range(3))
def test_restores_twins_too(tiny_spec, seed):
    arrays = tiny_spec.arrays["train"]
    shuffled = np.random.default_rng(seed).permutation(len(arrays.labels))
    mixed = Arrays(arrays.images[shuffled], arrays.labels[shuffled])
    restored = order.restore(mixed, tiny_spec.spec.order_file, "train")
    idx_files.verify(tiny_spec.spec, "train", restored, "here")


def test_refuses_another_number_of_examples(tiny_spec):
    with pytest.raises(DataError, match="the train split has 20 examples\nexpected 40"):
        order.restore(tiny_spec.arrays["test"], tiny_spec.spec.order_file, "train")


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_shipped_table_restores_the_real_data(split, request):
    real = request.getfixturevalue("fashion_mnist" if split == "train" else "fashion_mnist_test")
    mixed = Arrays(real.images[::-1, ..., 0], real.labels[::-1].astype(np.uint8))
    restored = order.restore(mixed, FASHION_MNIST.order_file, split)
    idx_files.verify(FASHION_MNIST, split, restored, "here")
