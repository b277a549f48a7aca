"""Inception's features, with a small TorchScript module in its place (needs the extra `torch`)."""

import numpy as np
import pytest
import torch

from cgan_jax.errors import DataError
from cgan_jax.metrics.inception import load_inception

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
]
IMAGES = np.random.default_rng(0).integers(0, 256, (7, 28, 28, 1), np.uint8)


class StandIn(torch.nn.Module):
    """Some pixels of what it is given, as so many features."""

    def __init__(self, n: int):
        super().__init__()
        self.n = n

    def forward(self, x):
        return x.flatten(1)[:, -self.n :]


class AsStyleGans(torch.nn.Module):
    """Gives features only when they are asked for."""

    def forward(self, x, return_features: bool = False):
        return x.flatten(1)[:, : 2048 if return_features else 1008]


def saved(module, path):
    torch.jit.script(module).save(str(path))
    return path


def test_the_module_is_given_enlarged_images_of_three_channels_and_all_grey_levels(tmp_path):
    features = load_inception(saved(StandIn(2048), tmp_path / "stand_in.pt"))
    told = []
    found = features(IMAGES, told.append)
    assert (found.shape, found.dtype, told) == ((7, 2048), np.float32, [7])
    planes = torch.from_numpy(IMAGES.astype(np.float32)).permute(0, 3, 1, 2)
    enlarged = torch.nn.functional.interpolate(planes, size=(299, 299), mode="bilinear")
    expected = enlarged.expand(-1, 3, -1, -1).flatten(1)[:, -2048:]
    np.testing.assert_array_equal(found, expected.numpy())
    assert found.max() > 200


def test_features_are_asked_for_where_they_must_be(tmp_path):
    features = load_inception(saved(AsStyleGans(), tmp_path / "style.pt"))
    assert features(IMAGES, lambda n: None).shape == (7, 2048)


def test_chunks_do_not_matter(tmp_path, monkeypatch):
    features = load_inception(saved(StandIn(2048), tmp_path / "stand_in.pt"))
    whole = features(IMAGES, lambda n: None)
    monkeypatch.setattr("cgan_jax.metrics.inception.CHUNK", 3)
    np.testing.assert_array_equal(features(IMAGES, lambda n: None), whole)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "noise.pt").write_bytes(b"no module")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "state.pt")
    for name in ("noise.pt", "state.pt", "missing.pt"):
        with pytest.raises(DataError, match=rf"{name} cannot be read as Inception") as refused:
            load_inception(tmp_path / name)
        assert len(str(refused.value).splitlines()) <= 3
    other = load_inception(saved(StandIn(1008), tmp_path / "other.pt"))
    with pytest.raises(DataError, match=r"gives Tensor \[7, 1008\]\nexpected features \[7, 2048\]"):
        other(IMAGES, lambda n: None)
