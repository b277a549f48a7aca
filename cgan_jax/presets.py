"""The named recipes: complete configurations, each with its source, its time and what it gives."""

from collections.abc import Mapping

from cgan_jax.config import TrainConfig

PRESETS: Mapping[str, TrainConfig] = {
    # The conditional GAN of the course report, with all of its settings: the defaults of
    # TrainConfig. 200 epochs took the report 63 minutes on a laptop's GPU; here 36 to 48 minutes
    # on two CPU cores. It covers 29% of the real distribution (docs/results.md).
    "report": TrainConfig(),
}
"""Named configurations; `report` is the conditional GAN of the course report."""
