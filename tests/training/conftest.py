"""PyTorch's numbers of the parts that a GAN may have, and how programs are compiled."""

from importlib.util import find_spec

import jax
import numpy as np
import pytest

import cgan_jax
from cgan_jax.data import Dataset
from cgan_jax.training import chunks
from tests.helpers import ROOT
from tests.tutorial import TUTORIAL, run_examples
from tests.xla import FUSED

LIVE = [pytest.param("live", marks=pytest.mark.torch)] if find_spec("torch") else []


@pytest.fixture(scope="session", params=["stored", *LIVE])
def from_torch(request):
    """The arrays of tests/golden/make_parts.py: stored, or made now from another seed."""
    if request.param == "live":
        from tests.golden import make_parts  # not at the top: it needs PyTorch

        return make_parts.make(seed=1)
    with np.load(ROOT / "tests/golden/parts.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def as_outside_of_tests(monkeypatch):
    """Compile steps with the fusion emitters."""
    options = chunks._update_in_place() | FUSED
    monkeypatch.setattr(chunks, "_update_in_place", lambda: options)
    chunks.compiled_steps.cache_clear()
    yield
    chunks.compiled_steps.cache_clear()


@pytest.fixture
def float64():
    """JAX computes in float64, where only rounding lies between two ways to the same number."""
    with jax.enable_x64():
        yield


@pytest.fixture(scope="session")
def few_images(fashion_mnist):
    """The first 96 images."""
    images, labels = fashion_mnist.images[:96], fashion_mnist.labels[:96]
    return Dataset.from_arrays(images, labels, fashion_mnist.class_names)


@pytest.fixture
def tutorial(few_images, tmp_path, monkeypatch):
    """Runs a section of the tutorial without its training, to test its parts by themselves.

    What is returned are its variables, and as `calls` what `train` was given each time. `load`
    gives few images, and `train` returns the fresh state.
    """
    monkeypatch.chdir(tmp_path)

    def run(section, data=few_images, **options):
        calls = []

        def train(gan, config, data, **options):
            calls.append({"gan": gan, "config": config, "data": data, **options})
            state = jax.jit(gan.init)(jax.random.key(0))
            checkpoints = options.get("checkpoints")
            if checkpoints and checkpoints.latest() is None:
                checkpoints.save(0, state)
            return state

        monkeypatch.setattr(cgan_jax, "load", lambda name: data, raising=False)
        monkeypatch.setattr(cgan_jax, "train", train, raising=False)
        return run_examples(TUTORIAL, section, **options) | {"calls": calls}

    return run
