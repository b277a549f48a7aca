"""The report's Generator and Discriminator, and the function that builds them.

Shape suffixes: B batch, Z latent_dim, E label_dim, H height, W width, C channels, F features.
Their layers are in layers.py; losses, optimizers and training state in cgan_jax/training/.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from cgan_jax.checks import ImageSize, height_and_width
from cgan_jax.config import ModelConfig
from cgan_jax.models.layers import BatchNorm, Linear, label_embedding


def networks(config: ModelConfig) -> tuple["Generator", "Discriminator"]:
    """The report's two networks, with the sizes and constants of a configuration."""
    generator = Generator(
        n_classes=config.n_classes,
        latent_dim=config.latent_dim,
        label_dim=config.embedding_width,
        img_size=config.img_size,
        channels=config.channels,
        widths=config.generator_widths,
        negative_slope=config.negative_slope,
        bn_epsilon=config.bn_epsilon,
        bn_momentum=config.bn_momentum,
    )
    discriminator = Discriminator(
        n_classes=config.n_classes,
        label_dim=config.embedding_width,
        widths=config.discriminator_widths,
        negative_slope=config.negative_slope,
        dropout_rate=config.dropout_rate,
    )
    return generator, discriminator


class Generator(nn.Module):
    """The report's generator: latent points and labels in, images out.

    `[label_embedding(y), z]` -> Linear, LeakyReLU -> (Linear, BatchNorm, LeakyReLU) for each
    further width -> Linear, tanh -> image. 1,511,412 parameters with the defaults.

    The collections are `params` and `batch_stats`; in training pass `mutable=["batch_stats"]`.
    `bn_epsilon=0.8` is the report's: a Keras momentum that reached PyTorch's epsilon argument
    (PyTorch-GAN issue 116). Its figures were made with it.

    Args:
        n_classes: how many classes there are.
        latent_dim: size of a latent point.
        label_dim: width of the label embedding.
        img_size: height and width of the images in pixels: an integer where they are equal,
            `(height, width)` where not.
        channels: 1 for grey images, 3 for colour, 4 for colour with alpha.
        widths: of the hidden layers; the first has no BatchNorm.
        negative_slope: of LeakyReLU below zero.
        bn_epsilon: added to the variance in BatchNorm.
        bn_momentum: decay of BatchNorm's running statistics; 1 - PyTorch's momentum.
    """

    n_classes: int = ModelConfig.n_classes
    latent_dim: int = ModelConfig.latent_dim
    label_dim: int = ModelConfig.n_classes
    img_size: ImageSize = ModelConfig.img_size
    channels: int = ModelConfig.channels
    widths: tuple[int, ...] = ModelConfig.generator_widths
    negative_slope: float = ModelConfig.negative_slope
    bn_epsilon: float = ModelConfig.bn_epsilon
    bn_momentum: float = ModelConfig.bn_momentum

    @nn.compact
    def __call__(self, latent_BxZ: jax.Array, labels_B: jax.Array, *, train: bool) -> jax.Array:
        """Generate one image for each latent point.

        Args:
            latent_BxZ: floats, from N(0, 1) in training.
            labels_B: integers in [0, n_classes).
            train: normalise by the batch's statistics and update the running ones, or use those.

        Returns:
            floats in [-1, 1], `[B, H, W, channels]`, H and W of `img_size`.
        """
        label_BxE = label_embedding(self.n_classes, self.label_dim)(labels_B)
        inputs: tuple[jax.Array, ...] = (label_BxE.astype(latent_BxZ.dtype), latent_BxZ)
        for i, width in enumerate(self.widths):
            x_BxF = Linear(width, name=f"hidden_{i}")(*inputs)
            if i > 0:
                norm = BatchNorm(self.bn_epsilon, self.bn_momentum, name=f"batch_norm_{i}")
                x_BxF = norm(x_BxF, train=train)
            inputs = (nn.leaky_relu(x_BxF, self.negative_slope),)
        image = (*height_and_width(self.img_size), self.channels)
        x_BxF = Linear(math.prod(image), name="output")(*inputs)
        return jnp.tanh(x_BxF).reshape(-1, *image)


class Discriminator(nn.Module):
    """The report's discriminator: images and labels in, one raw score each out (no sigmoid).

    `[flatten(x), label_embedding(y)]` -> Linear, LeakyReLU -> (Linear, Dropout, LeakyReLU) for each
    further width -> Linear to one score. 932,965 parameters with the defaults.

    In training pass `rngs={"dropout": key}`.

    Args:
        n_classes: how many classes there are.
        label_dim: width of the label embedding.
        widths: of the hidden layers; the first has no dropout.
        negative_slope: of LeakyReLU below zero.
        dropout_rate: share of the activations that are dropped, in [0, 1).
    """

    n_classes: int = ModelConfig.n_classes
    label_dim: int = ModelConfig.n_classes
    widths: tuple[int, ...] = ModelConfig.discriminator_widths
    negative_slope: float = ModelConfig.negative_slope
    dropout_rate: float = ModelConfig.dropout_rate

    @nn.compact
    def __call__(self, images_BxHxWxC: jax.Array, labels_B: jax.Array, *, train: bool) -> jax.Array:
        """Score images: towards 1 for real, towards 0 for fake under the report's loss.

        Args:
            images_BxHxWxC: floats in [-1, 1].
            labels_B: integers in [0, n_classes).
            train: whether dropout is active.

        Returns:
            raw scores, floats `[B]`.
        """
        label_BxE = label_embedding(self.n_classes, self.label_dim)(labels_B)
        flat_BxF = images_BxHxWxC.reshape(len(images_BxHxWxC), -1)
        inputs: tuple[jax.Array, ...] = (flat_BxF, label_BxE.astype(flat_BxF.dtype))
        for i, width in enumerate(self.widths):
            x_BxF = Linear(width, name=f"hidden_{i}")(*inputs)
            if i > 0:
                x_BxF = nn.Dropout(self.dropout_rate, deterministic=not train)(x_BxF)
            inputs = (nn.leaky_relu(x_BxF, self.negative_slope),)
        return Linear(1, name="output")(*inputs)[:, 0]
