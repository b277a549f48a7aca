"""The named recipes: complete configurations, each with its source, its time and what it gives."""

from collections.abc import Mapping

from cgan_jax.checks import did_you_mean, short_repr
from cgan_jax.config import (
    AverageConfig,
    MLPConfig,
    OptimizerConfig,
    PenaltyConfig,
    ResidualConfig,
    SNGANConfig,
    TrainConfig,
)
from cgan_jax.errors import ConfigError

PRESETS: Mapping[str, TrainConfig] = {
    # The conditional GAN of the course report, with all of its settings: the defaults of
    # TrainConfig. 200 epochs took the report 63 minutes on a laptop's GPU, and take 36 to 48
    # minutes here on two CPU cores. It covers 29% of the real distribution (docs/results.md).
    "report": TrainConfig(),
    # The report's MLPs without BatchNorm and dropout, with R3GAN's loss and penalties (Huang et al.
    # 2024) and a projection discriminator: 9 to 16 minutes on two CPU cores (72 to 40 steps per
    # second). Measured in docs/results.md; what was tried is in docs/recipes.md.
    "relativistic_mlp": TrainConfig(
        epochs=40,
        loss="relativistic",
        model=MLPConfig(latent_dim=32, discriminator_conditioning="projection"),
        optimizer=OptimizerConfig(lr=2e-4, b1=0.0, b2=0.999),
        disc_optimizer=OptimizerConfig(lr=4e-4, b1=0.0, b2=0.999),
        penalty=PenaltyConfig("r1_r2", gamma=0.05, every=4),
        average=AverageConfig(keep=True, half_life=160_000, ramp=0.1),
    ),
    # Networks after R3GAN's config D (Huang et al. 2024), sized for small images and two CPU cores,
    # with its loss and penalties; the learning rate falls in the last fifth. 33 to 52 minutes there
    # (12 to 7.5 steps per second). Measured in docs/results.md; what was tried: docs/recipes.md.
    "residual": TrainConfig(
        epochs=25,
        loss="relativistic",
        model=ResidualConfig(generator_widths=(128, 48), discriminator_widths=(48, 128)),
        optimizer=OptimizerConfig(lr=4e-4, b1=0.0, b2=0.99, lr_end=2e-5, schedule="cooldown"),
        penalty=PenaltyConfig("r1_r2", gamma=0.1, every=4),
        average=AverageConfig(keep=True),
    ),
    # The projection discriminator (Miyato and Koyama 2018) on SNGAN's networks, with hinge losses
    # and the two learning rates of Zhang et al. 2019. 51 to 101 minutes on two CPU cores (6 to 3
    # steps per second). Measured in docs/results.md.
    "projection": TrainConfig(
        epochs=20,
        loss="hinge",
        model=SNGANConfig(generator_width=32, discriminator_width=32),
        optimizer=OptimizerConfig(lr=1e-4, b1=0.0, b2=0.9),
        disc_optimizer=OptimizerConfig(lr=4e-4, b1=0.0, b2=0.9),
        average=AverageConfig(keep=True),
    ),
    # `residual` with more channels and blocks, large batches and bfloat16 inside: for a GPU. It has
    # been neither timed there nor measured yet; on two CPU cores an epoch takes half an hour.
    "residual_wide": TrainConfig(
        epochs=100,
        batch_size=256,
        loss="relativistic",
        model=ResidualConfig(
            generator_widths=(384, 192),
            discriminator_widths=(192, 384),
            blocks=2,
            precision="bfloat16",
        ),
        optimizer=OptimizerConfig(lr=2e-4, b1=0.0, b2=0.9, lr_end=5e-5, b2_end=0.99),
        penalty=PenaltyConfig("r1_r2", gamma=0.2, gamma_end=0.02),
        average=AverageConfig(keep=True, half_life=200_000),
    ),
}
"""Named configurations; `report` is the conditional GAN of the course report."""


def preset(name: str) -> TrainConfig:
    """The configuration of a preset.

    Raises:
        ConfigError: there is no preset of that name; the message suggests the nearest one.
    """
    if name not in PRESETS:
        raise ConfigError(
            f"there is no preset {short_repr(name)}{did_you_mean(name, PRESETS)}\n"
            f"expected one of {', '.join(PRESETS)}\nChoose one of these."
        )
    return PRESETS[name]
