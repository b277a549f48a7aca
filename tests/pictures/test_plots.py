"""Plots of numbers: what is in the picture."""

import numpy as np
import pytest
from PIL import Image

from cgan_jax.pictures.plots import plot_losses


@pytest.mark.parametrize("level", [0.5, -0.5])
def test_both_losses_are_in_the_plot(tmp_path, level):
    """Hinge's generator loss may be negative; the legend alone has few pixels of its colour."""
    losses = np.stack([np.full(200, 1.0), np.full(200, level)], axis=1)
    plot_losses(losses, 100, tmp_path / "losses.png")
    with Image.open(tmp_path / "losses.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    for colour in ((31, 119, 180), (255, 127, 14)):  # matplotlib's C0 and C1
        assert (np.abs(pixels - colour).max(axis=-1) < 60).sum() > 1000
