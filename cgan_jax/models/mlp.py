"""An MLP pair without normalisation and dropout, for relativistic losses with gradient penalties.

Shape suffixes: B batch, Z latent_dim, E label_dim, H height, W width, C channels, F features.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from cgan_jax.config import MLPConfig
from cgan_jax.models.base import ConfiguredDiscriminator, ConfiguredGenerator
from cgan_jax.models.layers import (
    ConditionalScore,
    Linear,
    label_embedding,
    leaky_gain,
    scaled_normal,
)


class MLPGenerator(ConfiguredGenerator):
    """`[label embedding, z]` -> (Linear, LeakyReLU) for each width -> Linear, tanh -> image."""

    config: MLPConfig

    @nn.compact
    def __call__(self, latent_BxZ: jax.Array, labels_B: jax.Array, *, train: bool) -> jax.Array:
        config = self.config
        label_BxE = label_embedding(config.n_classes, config.embedding_width)(labels_B)
        inputs = (label_BxE.astype(latent_BxZ.dtype), latent_BxZ)
        h_BxF = _hidden(inputs, config.generator_widths, config.negative_slope)
        image = config.image_shape
        x_BxF = Linear(math.prod(image), scaled_normal(), name="output")(h_BxF)
        return jnp.tanh(x_BxF).reshape(-1, *image)


class MLPDiscriminator(ConfiguredDiscriminator):
    """`flatten(x)` -> (Linear, LeakyReLU) for each width -> one score.

    The label's embedding stands beside the pixels, or enters the score; see
    `cgan_jax.models.layers.ConditionalScore`.
    """

    config: MLPConfig

    @nn.compact
    def __call__(self, images_BxHxWxC: jax.Array, labels_B: jax.Array, *, train: bool) -> jax.Array:
        config, conditioning = self.config, self.config.discriminator_conditioning
        inputs: tuple[jax.Array, ...] = (images_BxHxWxC.reshape(len(images_BxHxWxC), -1),)
        if conditioning == "concatenation":
            label_BxE = label_embedding(config.n_classes, config.embedding_width)(labels_B)
            inputs = (*inputs, label_BxE.astype(images_BxHxWxC.dtype))
        h_BxF = _hidden(inputs, config.discriminator_widths, config.negative_slope)
        score = ConditionalScore(config.n_classes, conditioning, name="score")
        return score(h_BxF, labels_B, train=train)


def _hidden(
    inputs_BxI: tuple[jax.Array, ...], widths: tuple[int, ...], negative_slope: float
) -> jax.Array:
    init = scaled_normal(leaky_gain(negative_slope))
    for i, width in enumerate(widths):
        h_BxF = Linear(width, init, name=f"hidden_{i}")(*inputs_BxI)
        inputs_BxI = (nn.leaky_relu(h_BxF, negative_slope),)
    return inputs_BxI[0]
