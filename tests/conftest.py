"""Fixtures that several test files share. What one directory alone needs is in its own conftest.py.

The real data are read through `load`, from whichever source this machine has.
"""

import os
from importlib.util import find_spec

import numpy as np
import pytest

from cgan_jax.config import TrainConfig
from cgan_jax.data import Dataset, load
from experiments.proofs import tiny
from tests.xla import HAS_OLD_EMITTERS

# These compare with PyTorch, of the extra `torch`, run ONNX graphs, of the extra `onnx`, or compare
# with the measures of others or drive a browser, of the extra `dev`, which they import at their
# top. CI has all of them.
collect_ignore_glob = [] if find_spec("torch") else ["*/test_torch_cgan.py", "*_live.py"]
collect_ignore_glob += [] if find_spec("onnxruntime") else ["*_onnx.py"]
collect_ignore_glob += [] if find_spec("prdc") else ["*_oracles.py"]
collect_ignore_glob += [] if find_spec("playwright") else ["*_in_a_browser.py"]


def pytest_configure(config):
    """Spend less time on compilation, which is most of a test's time.

    XLA does not optimise programs, most of which run for milliseconds here, nor, where it can do
    without, use its fusion emitters, which take longest to compile. JAX keeps the programs in
    pytest's cache, so that tests, the processes of pytest-xdist and later sessions share them.
    Commands that tests start inherit all this. What is compared stays the same: numbers of NumPy
    and PyTorch, or two programs compiled alike.

    NumPy gets one thread in the processes of pytest-xdist. The threads of its OpenBLAS busy-wait
    for one another: beside other work, an eigendecomposition took 140 times as long with two.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    if HAS_OLD_EMITTERS:
        flags += " --xla_cpu_use_fusion_emitters=false"
    if flags not in os.environ.get("XLA_FLAGS", ""):  # of the session that started this one
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    if cache := getattr(config, "cache", None):  # none with -p no:cacheprovider
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache.mkdir("programs")))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


@pytest.fixture(autouse=True)
def same_draws(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module's RNG is seeded again for each test, so that its draws depend on no other test."""
    if hasattr(request.module, "RNG"):
        monkeypatch.setattr(request.module, "RNG", np.random.default_rng(0))


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
