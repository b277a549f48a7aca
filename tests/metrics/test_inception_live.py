"""Inception's features, with small TorchScript modules instead (needs the extra `torch`)."""

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


class LastPixels(torch.nn.Module):
    """Returns the last n pixels as features."""

    def __init__(self, n: int):
        super().__init__()
        self.n = n

    def forward(self, x):
        return x.flatten(1)[:, -self.n :]


class StyleGanLike(torch.nn.Module):
    """Returns features only with `return_features`."""

    def forward(self, x, return_features: bool = False):
        return x.flatten(1)[:, : 2048 if return_features else 1008]


def save(module, path):
    torch.jit.script(module).save(str(path))
    return path


def test_the_module_receives_enlarged_images_of_three_channels_and_all_grey_levels(tmp_path):
    inception = load_inception(save(LastPixels(2048), tmp_path / "module.pt"))
    sizes = []
    features = inception(IMAGES, sizes.append)
    assert (features.shape, features.dtype, sizes) == ((7, 2048), np.float32, [7])
    planes = torch.from_numpy(IMAGES.astype(np.float32)).permute(0, 3, 1, 2)
    enlarged = torch.nn.functional.interpolate(planes, size=(299, 299), mode="bilinear")
    expected = enlarged.expand(-1, 3, -1, -1).flatten(1)[:, -2048:]
    np.testing.assert_array_equal(features, expected.numpy())
    assert features.max() > 200


def test_return_features_is_set(tmp_path):
    inception = load_inception(save(StyleGanLike(), tmp_path / "style.pt"))
    assert inception(IMAGES, lambda n: None).shape == (7, 2048)


def test_features_do_not_depend_on_the_chunk_size(tmp_path, monkeypatch):
    inception = load_inception(save(LastPixels(2048), tmp_path / "module.pt"))
    whole = inception(IMAGES, lambda n: None)
    monkeypatch.setattr("cgan_jax.metrics.inception.CHUNK", 3)
    np.testing.assert_array_equal(inception(IMAGES, lambda n: None), whole)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "noise.pt").write_bytes(b"no module")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "state.pt")
    for name in ("noise.pt", "state.pt", "missing.pt"):
        with pytest.raises(DataError, match=rf"{name} cannot be read as Inception") as refused:
            load_inception(tmp_path / name)
        assert len(str(refused.value).splitlines()) <= 3
    other = load_inception(save(LastPixels(1008), tmp_path / "other.pt"))
    with pytest.raises(
        DataError, match=r"returns Tensor \[7, 1008\]\nexpected features \[7, 2048\]"
    ):
        other(IMAGES, lambda n: None)
