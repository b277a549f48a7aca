"""The published order comes back from any other order."""

import numpy as np
import pytest

from cgan_jax.data import idx
from cgan_jax.data.idx import Arrays
from cgan_jax.data.spec import FASHION_MNIST
from cgan_jax.data.tfds_files import restore_order


def restored_and_verified(arrays, spec, split):
    with np.load(spec.order_file) as tables:
        restored = restore_order(arrays, tables[split])
    idx.verify(spec, split, restored, "here")


@pytest.mark.parametrize("seed", range(3))
def test_restores_twins_too(tiny_spec, seed):
    arrays = tiny_spec.arrays["train"]
    shuffled = np.random.default_rng(seed).permutation(len(arrays.labels))
    mixed = Arrays(arrays.images[shuffled], arrays.labels[shuffled])
    restored_and_verified(mixed, tiny_spec.spec, "train")


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_shipped_table_restores_the_real_data(split, request):
    real = request.getfixturevalue("fashion_mnist" if split == "train" else "fashion_mnist_test")
    mixed = Arrays(real.images[::-1, ..., 0], real.labels[::-1].astype(np.uint8))
    restored_and_verified(mixed, FASHION_MNIST, split)
