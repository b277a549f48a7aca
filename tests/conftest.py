"""Fixtures that several test files share. What one directory alone needs is in its own conftest.py.

The real data are read through `load`, from whichever source this machine has.
"""

import pytest

from cgan_jax.data import Dataset, load


@pytest.fixture(scope="session")
def fashion_mnist() -> Dataset:
    """The real training split: 60,000 images."""
    return load("fashion_mnist", "train")


@pytest.fixture(scope="session")
def fashion_mnist_test() -> Dataset:
    """The real test split: 10,000 images."""
    return load("fashion_mnist", "test")
