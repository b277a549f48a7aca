"""A residual pair for small images without normalisation, after R3GAN's config D.

Source: Huang et al. 2024, "The GAN is dead; long live the GAN! A Modern GAN Baseline". Like
R3GAN's, a block is a bottleneck of 1x1, 3x3 and 1x1 convolutions. Unlike in R3GAN, images are
resampled by space-to-depth (its filter is an option), and the first and last layers are dense. Its
config E adds grouped convolutions in an inverted bottleneck, which these networks do not have.

The last convolution of every block starts at zero, and the two before it are scaled down by the
number of blocks (Fixup: Zhang et al. 2019), so that no normalisation is needed. Convolutions have a
bias only where an activation follows. Shape suffixes: B batch, Z latent_dim, H height, W width, C
channels, F features.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from cgan_jax.config import ResidualConfig
from cgan_jax.models.base import ConfiguredDiscriminator, ConfiguredGenerator
from cgan_jax.models.convolution import (
    Conv,
    depth_to_space,
    filter_downsample,
    filter_upsample,
    space_to_depth,
)
from cgan_jax.models.layers import (
    ConditionalScore,
    Linear,
    label_embedding,
    leaky_gain,
    scaled_normal,
    with_label_planes,
    with_precision,
)


class ResidualGenerator(ConfiguredGenerator):
    """`[label embedding, z]` -> Linear to the smallest images -> stages -> 3x3 to pixels -> tanh.

    Every stage is `blocks` residual blocks, and leads to images of twice the size: to the next
    stage by depth-to-space after a 1x1 convolution, or by R3GAN's filter after a 1x1 convolution if
    the widths differ; to the pixels by depth-to-space. 710,532 parameters with the defaults.
    """

    config: ResidualConfig

    @nn.compact
    def __call__(self, latent_BxZ: jax.Array, labels_B: jax.Array, *, train: bool) -> jax.Array:
        config = self.config
        widths, dtype = config.generator_widths, latent_BxZ.dtype
        smallest = *config.smallest(len(widths)), widths[0]
        label_BxE = label_embedding(config.n_classes, config.embedding_width)(labels_B)
        first = Linear(math.prod(smallest), scaled_normal(), name="first")
        x_BxF = first(label_BxE.astype(dtype), latent_BxZ)
        x = with_precision(x_BxF.reshape(-1, *smallest), config.precision)
        for i, width in enumerate(widths):
            if i > 0:
                x = _to_larger_stage(x, width, config, f"to_stage_{i}")
            x = _blocks(x, config, len(widths), f"stage_{i}")
        output = Conv(4 * config.channels, kernel_init=scaled_normal(), name="output")
        return jnp.tanh(depth_to_space(output(x.astype(dtype))))


class ResidualDiscriminator(ConfiguredDiscriminator):
    """Space-to-depth, 3x3 -> stages -> Linear to `features`, LeakyReLU -> one score.

    The mirror image of the generator, with the score of `cgan_jax.models.layers.ConditionalScore`.
    1,710,529 parameters with the defaults.
    """

    config: ResidualConfig

    @nn.compact
    def __call__(self, images_BxHxWxC: jax.Array, labels_B: jax.Array, *, train: bool) -> jax.Array:
        config, dtype = self.config, images_BxHxWxC.dtype
        widths, conditioning = config.discriminator_widths, config.discriminator_conditioning
        x = space_to_depth(images_BxHxWxC)
        if conditioning == "concatenation":
            label_BxE = label_embedding(config.n_classes, config.embedding_width)(labels_B)
            x = with_label_planes(x, label_BxE)
        x = with_precision(x, config.precision)
        x = Conv(widths[0], kernel_init=scaled_normal(), use_bias=False, name="first")(x)
        for i, width in enumerate(widths):
            if i > 0:
                x = _to_smaller_stage(x, width, config, f"to_stage_{i}")
            x = _blocks(x, config, len(widths), f"stage_{i}")
        init = scaled_normal(leaky_gain(config.negative_slope))
        x_BxF = x.astype(dtype).reshape(len(x), -1)
        h_BxF = Linear(config.features, init, name="features")(x_BxF)
        h_BxF = nn.leaky_relu(h_BxF, config.negative_slope)
        score = ConditionalScore(config.n_classes, conditioning, name="score")
        return score(h_BxF, labels_B, train=train)


def _blocks(x: jax.Array, config: ResidualConfig, n_stages: int, name: str) -> jax.Array:
    for i in range(config.blocks):
        x = ResidualBlock(config, n_stages * config.blocks, name=f"{name}_block_{i}")(x)
    return x


class ResidualBlock(nn.Module):
    """`x + Conv1(act(Conv3(act(Conv1(x)))))`, with a narrower middle: a bottleneck.

    Args:
        config: slope and relative width of the middle.
        n_blocks: number of blocks in the network.
    """

    config: ResidualConfig
    n_blocks: int

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array) -> jax.Array:
        slope, width = self.config.negative_slope, x_BxHxWxC.shape[-1]
        # Fixup with three convolutions: L^(-1 / (2 * 3 - 2)).
        init = scaled_normal(leaky_gain(slope) * self.n_blocks**-0.25)
        hidden = self.config.hidden_width(width)
        y = nn.leaky_relu(Conv(hidden, 1, init, name="reduce")(x_BxHxWxC), slope)
        y = nn.leaky_relu(Conv(hidden, 3, init, name="mix")(y), slope)
        zeros = nn.initializers.zeros
        return x_BxHxWxC + Conv(width, 1, zeros, use_bias=False, name="expand")(y)


def _to_larger_stage(x: jax.Array, width: int, config: ResidualConfig, name: str) -> jax.Array:
    if config.resampling == "shuffle":
        return depth_to_space(_change_width(x, 4 * width, name))
    return filter_upsample(x if x.shape[-1] == width else _change_width(x, width, name))


def _to_smaller_stage(x: jax.Array, width: int, config: ResidualConfig, name: str) -> jax.Array:
    if config.resampling == "shuffle":
        return _change_width(space_to_depth(x), width, name)
    x = filter_downsample(x)
    return x if x.shape[-1] == width else _change_width(x, width, name)


def _change_width(x: jax.Array, width: int, name: str) -> jax.Array:
    return Conv(width, 1, scaled_normal(), use_bias=False, name=name)(x)
