"""A data set and networks that compile and run in no time: for trials and tests."""

import numpy as np

from cgan_jax.config import ModelConfig, TrainConfig
from cgan_jax.data import Dataset

CLASS_NAMES = ("left", "right", "round trip")
# 4x4 images of 3 classes, 6 steps an epoch.
CONFIG = TrainConfig(
    dataset="tiny",
    epochs=3,
    batch_size=4,
    model=ModelConfig(
        n_classes=3,
        latent_dim=5,
        img_size=4,
        generator_widths=(8, 16, 16),
        discriminator_widths=(16, 16, 16),
    ),
)


def dataset() -> Dataset:
    """22 random images: with batches of 4, the last of an epoch has 2."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (22, 4, 4, 1), np.uint8)
    return Dataset.from_arrays(images, rng.integers(0, 3, 22, np.int32), CLASS_NAMES, name="tiny")
