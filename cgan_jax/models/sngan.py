"""The SNGAN pair (Miyato et al. 2018) with a projection (Miyato and Koyama 2018), for small images.

Where batch normalisation follows, convolutions have no bias: it would cancel out. Convolutions of
1x1 stand on the smaller side of a change of resolution, with which they commute. Shape suffixes: B
batch, Z latent_dim, H height, W width, C channels, F features.
"""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from cgan_jax.config import SNGANConfig
from cgan_jax.models.base import ConfiguredDiscriminator, ConfiguredGenerator
from cgan_jax.models.convolution import Conv, Resize, mean_downsample, nearest_upsample
from cgan_jax.models.layers import (
    BatchNorm,
    ConditionalScore,
    Initializer,
    Linear,
    label_embedding,
    spectral,
    with_label_planes,
    with_precision,
)


class SNGANGenerator(ConfiguredGenerator):
    """Linear -> a residual block for each doubling -> BatchNorm, ReLU, 3x3, tanh -> image.

    The label enters every block's batch normalisation, or the first layer with the latent point.
    """

    config: SNGANConfig

    @nn.compact
    def __call__(self, latent_BxZ: jax.Array, labels_B: jax.Array, *, train: bool) -> jax.Array:
        config, dtype = self.config, latent_BxZ.dtype
        inputs: tuple[jax.Array, ...] = (latent_BxZ,)
        if config.generator_conditioning == "concatenation":
            label_BxE = label_embedding(config.n_classes, config.embedding_width)(labels_B)
            inputs = (label_BxE.astype(dtype), latent_BxZ)
        first = *config.smallest(config.stages), config.generator_width
        x_BxF = Linear(math.prod(first), _glorot(), name="first")(*inputs)
        x = with_precision(x_BxF.reshape(-1, *first), config.precision)
        for i in range(config.stages):
            x = GeneratorBlock(config, name=f"block_{i}")(x, labels_B, train=train)
        norm = BatchNorm(config.bn_epsilon, config.bn_momentum, name="batch_norm")
        x = nn.relu(norm(x.astype(dtype), train=train))
        return jnp.tanh(Conv(config.channels, kernel_init=_glorot(), name="output")(x))


class GeneratorBlock(nn.Module):
    """`up(shortcut(x)) + Conv3(act(norm(Conv3(up(act(norm(x)))))))`: twice the size.

    Args:
        config: width and constants.
    """

    config: SNGANConfig

    @nn.compact
    def __call__(self, x: jax.Array, labels_B: jax.Array, *, train: bool) -> jax.Array:
        config, width = self.config, self.config.generator_width
        n_classes = config.n_classes if config.generator_conditioning == "batch_norm" else None

        def activate(x: jax.Array, name: str) -> jax.Array:
            norm = BatchNorm(config.bn_epsilon, config.bn_momentum, n_classes, name=name)
            return nn.relu(norm(x, labels_B, train=train))

        conv = partial(Conv, width, kernel_init=_glorot(math.sqrt(2)), use_bias=False)
        y = conv(resize="double", name="conv_0")(activate(x, "batch_norm_0"))
        y = conv(name="conv_1")(activate(y, "batch_norm_1"))
        shortcut = Conv(width, 1, _glorot(), use_bias=False, name="shortcut")
        return nearest_upsample(shortcut(x)) + y


class SNGANDiscriminator(ConfiguredDiscriminator):
    """Residual blocks, one for each halving and two more -> ReLU, sum over the image -> one score.

    Every layer is spectrally normalised; see `cgan_jax.models.layers.SpectralNorm` and, for the
    score, `ConditionalScore`.
    """

    config: SNGANConfig

    @nn.compact
    def __call__(self, images_BxHxWxC: jax.Array, labels_B: jax.Array, *, train: bool) -> jax.Array:
        config, x = self.config, images_BxHxWxC
        if config.discriminator_conditioning == "concatenation":
            embedding = label_embedding(config.n_classes, config.embedding_width)
            x = with_label_planes(x, spectral(embedding, labels_B, train=train))
        x = with_precision(x, config.precision)
        for i in range(config.stages + 2):
            block = DiscriminatorBlock(
                config.discriminator_width, first=i == 0, down=i < config.stages, name=f"block_{i}"
            )
            x = block(x, train=train)
        h_BxF = nn.relu(x).astype(images_BxHxWxC.dtype).sum((1, 2))
        score = ConditionalScore(
            config.n_classes, config.discriminator_conditioning, spectral_norm=True, name="score"
        )
        return score(h_BxF, labels_B, train=train)


class DiscriminatorBlock(nn.Module):
    """`shortcut(down(x)) + down(Conv3(act(Conv3(act(x)))))`; the first block does not activate x.

    Without a change of resolution the shortcut is x itself.

    Args:
        width: number of output channels.
        first: whether x is an image.
        down: whether the size is halved.
    """

    width: int
    first: bool
    down: bool

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv = partial(Conv, self.width, kernel_init=_glorot(math.sqrt(2)))
        y = x if self.first else nn.relu(x)
        y = nn.relu(spectral(conv(name="conv_0"), y, train=train))
        resize: Resize = "halve" if self.down else None
        y = spectral(conv(resize=resize, name="conv_1"), y, train=train)
        if not self.down:
            return x + y
        shortcut = Conv(self.width, 1, _glorot(), name="shortcut")
        return spectral(shortcut, mean_downsample(x), train=train) + y


def _glorot(gain: float = 1) -> Initializer:
    """The papers' initialisation (Glorot and Bengio 2010), times a gain."""
    return nn.initializers.variance_scaling(gain**2, "fan_avg", "uniform")
