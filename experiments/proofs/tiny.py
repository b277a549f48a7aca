"""A data set and networks that compile and run in no time: for trials and tests."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from cgan_jax.config import MLPConfig, ModelConfig, ResidualConfig, SNGANConfig, TrainConfig
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
# Sizes of each kind of model: networks of a few channels.
SIZES: Mapping[type, Mapping[str, Any]] = {
    ModelConfig: {"generator_widths": (4, 4), "discriminator_widths": (4, 4)},
    MLPConfig: {"generator_widths": (4, 4), "discriminator_widths": (4, 4)},
    ResidualConfig: {"generator_widths": (8, 4), "discriminator_widths": (4, 8), "features": 4},
    SNGANConfig: {"generator_width": 4, "discriminator_width": 4, "stages": 1},
}


def shrink(config: TrainConfig) -> TrainConfig:
    """A recipe for the tiny data, with tiny networks and batches of 4."""
    sizes = SIZES[type(config.model)]
    model = replace(config.model, latent_dim=3, label_dim=2, **sizes)
    return replace(config, batch_size=4, model=model).for_data(dataset())


def dataset() -> Dataset:
    """22 random images: with batches of 4, the last of an epoch has 2."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (22, 4, 4, 1), np.uint8)
    return Dataset.from_arrays(images, rng.integers(0, 3, 22, np.int32), CLASS_NAMES, name="tiny")
