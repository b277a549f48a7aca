"""The named recipes: complete configurations, each with its source, its time and what it gives."""

from collections.abc import Mapping

from cgan_jax.checks import did_you_mean, short_repr
from cgan_jax.config import TrainConfig
from cgan_jax.errors import ConfigError

PRESETS: Mapping[str, TrainConfig] = {
    # The conditional GAN of the course report, with all of its settings: the defaults of
    # TrainConfig. 200 epochs took the report 63 minutes on a laptop's GPU, and take 36 to 48
    # minutes here on two CPU cores. It covers 29% of the real distribution (docs/results.md).
    "report": TrainConfig(),
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
