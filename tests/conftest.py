"""Fixtures that several test files share. What one directory alone needs is in its own conftest.py.

The real data are read through `load`, from whichever source this machine has.
"""

from importlib.util import find_spec

import pytest

from cgan_jax.config import ModelConfig, TrainConfig
from cgan_jax.data import Dataset, load

# These compare with PyTorch, of the extra `torch`, or with the measures of others, of the extra
# `dev`, and import them at their top. CI has both.
collect_ignore_glob = [] if find_spec("torch") else ["test_torch_*.py", "*_live.py"]
collect_ignore_glob += [] if find_spec("prdc") else ["*_oracles.py"]


@pytest.fixture(scope="session")
def fashion_mnist() -> Dataset:
    """The real training split: 60,000 images."""
    return load("fashion_mnist", "train")


@pytest.fixture(scope="session")
def fashion_mnist_test() -> Dataset:
    """The real test split: 10,000 images."""
    return load("fashion_mnist", "test")


@pytest.fixture(scope="session")
def tiny_config() -> TrainConfig:
    """Networks that compile and run in no time: 4x4 images of 3 classes, 6 steps an epoch."""
    model = ModelConfig(
        n_classes=3,
        latent_dim=5,
        img_size=4,
        generator_widths=(8, 16, 16),
        discriminator_widths=(16, 16, 16),
    )
    return TrainConfig(dataset="tiny", epochs=3, batch_size=4, model=model)


@pytest.fixture(scope="session")
def tiny_dataset() -> Dataset:
    """22 random images: with batches of 4, the last of an epoch has 2."""
    from tests.golden.make_run_folder import dataset  # imports JAX, which not all tests need

    return dataset()
