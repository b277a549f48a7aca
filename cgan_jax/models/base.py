"""What the networks that are built from one configuration have in common."""

from typing import Any

import flax.linen as nn
import jax

from cgan_jax.checks import ImageSize


class ConfiguredGenerator(nn.Module):
    """A generator with its configuration as the only field. `GAN` reads the sizes.

    Args:
        config: one of the kinds in `cgan_jax.config.MODEL_KINDS`.
    """

    config: Any

    def __call__(self, latent_BxZ: jax.Array, labels_B: jax.Array, *, train: bool) -> jax.Array:
        """Generate one image for each latent point.

        Args:
            latent_BxZ: floats, from N(0, 1) in training.
            labels_B: integers in [0, n_classes).
            train: whether batch normalisation, where there is some, takes the batch's statistics
                and updates the running ones, or uses those.

        Returns:
            floats in [-1, 1], `[B, H, W, channels]`, H and W of `img_size`.
        """
        raise NotImplementedError

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


class ConfiguredDiscriminator(nn.Module):
    """A discriminator with its configuration as the only field.

    Args:
        config: that of its generator.
    """

    config: Any

    def __call__(self, images_BxHxWxC: jax.Array, labels_B: jax.Array, *, train: bool) -> jax.Array:
        """Score images.

        Args:
            images_BxHxWxC: floats in [-1, 1].
            labels_B: integers in [0, n_classes).
            train: whether spectral normalisation, where there is some, takes a step of power
                iteration.

        Returns:
            raw scores, floats `[B]`.
        """
        raise NotImplementedError
