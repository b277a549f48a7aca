"""Fixtures that several test files share. What one directory alone needs is in its own conftest.py.

The real data are read through `load`, from whichever source this machine has.
"""

from importlib.util import find_spec

import pytest

from cgan_jax.config import TrainConfig
from cgan_jax.data import Dataset, load
from experiments import tiny

# These compare with PyTorch, of the extra `torch`, run ONNX graphs, of the extra `onnx`, or compare
# with the measures of others or drive a browser, of the extra `dev`, which they import at their
# top. CI has all of them.
collect_ignore_glob = [] if find_spec("torch") else ["test_torch_*.py", "*_live.py"]
collect_ignore_glob += [] if find_spec("onnxruntime") else ["*_onnx.py"]
collect_ignore_glob += [] if find_spec("prdc") else ["*_oracles.py"]
collect_ignore_glob += [] if find_spec("playwright") else ["*_in_a_browser.py"]


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
    return tiny.CONFIG


@pytest.fixture(scope="session")
def tiny_dataset() -> Dataset:
    return tiny.dataset()
