"""PyTorch's numbers of the parts that a GAN may have, and how programs are compiled."""

from importlib.util import find_spec

import numpy as np
import pytest

from cgan_jax.training import chunks
from tests.helpers import ROOT
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
