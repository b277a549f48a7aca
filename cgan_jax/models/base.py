"""What the generators that are built from one configuration have in common."""

from typing import Any

import flax.linen as nn

from cgan_jax.checks import ImageSize


class ConfiguredGenerator(nn.Module):
    """A generator with its configuration as the only field. `GAN` reads the sizes.

    Args:
        config: one of the kinds in `cgan_jax.config.MODEL_KINDS`.
    """

    config: Any

    @property
    def n_classes(self) -> int:
        return self.config.n_classes

    @property
    def latent_dim(self) -> int:
        return self.config.latent_dim

    @property
    def img_size(self) -> ImageSize:
        return self.config.img_size

    @property
    def channels(self) -> int:
        return self.config.channels
