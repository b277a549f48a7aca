"""What is trained: `GAN` (modules, optimizers, loss: static) and `GANState` (arrays only).

How a step changes the state is in steps.py; how it is stored is in checkpoint.py.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from cgan_jax.adam import adam
from cgan_jax.config import PRESETS, TrainConfig
from cgan_jax.losses import LOSSES, AdversarialLoss
from cgan_jax.models import Discriminator, Generator


@struct.dataclass
class NetState:
    """One network's arrays: parameters, batch statistics (may be empty), optimizer state."""

    params: Any
    batch_stats: Any
    opt_state: Any


@struct.dataclass
class GANState:
    """Everything that training changes. `step` counts finished steps: the run's only clock."""

    step: jax.Array
    gen: NetState
    disc: NetState


@dataclass(frozen=True)
class GAN:
    """The two networks, their optimizers and the loss. Hashable: a static argument under jit.

    The generator maps `(latent_BxZ, labels_B, train=)` to images in [-1, 1] and has a `latent_dim`,
    an `n_classes`, an `img_size` and `channels`; the discriminator maps
    `(images_BxHxWxC, labels_B, train=)` to scores `[B]`. Any modules with these signatures will do.

    Build it once: two Optax transforms made by equal calls are not equal, and jit would trace anew.
    """

    generator: nn.Module
    discriminator: nn.Module
    gen_optimizer: optax.GradientTransformation
    disc_optimizer: optax.GradientTransformation
    loss: AdversarialLoss = LOSSES["least_squares"]

    @staticmethod
    @lru_cache
    def from_config(config: TrainConfig = PRESETS["report"]) -> "GAN":
        """The networks, optimizers and loss of a configuration; the same object for equal ones."""
        m, o = config.model, config.optimizer
        return GAN(
            generator=Generator(
                n_classes=m.n_classes,
                latent_dim=m.latent_dim,
                label_dim=m.n_classes if m.label_dim is None else m.label_dim,
                img_size=m.img_size,
                channels=m.channels,
                widths=m.generator_widths,
                negative_slope=m.negative_slope,
                bn_epsilon=m.bn_epsilon,
                bn_momentum=m.bn_momentum,
            ),
            discriminator=Discriminator(
                n_classes=m.n_classes,
                label_dim=m.n_classes if m.label_dim is None else m.label_dim,
                widths=m.discriminator_widths,
                negative_slope=m.negative_slope,
                dropout_rate=m.dropout_rate,
            ),
            gen_optimizer=adam(o.lr, o.b1, o.b2, o.eps),
            disc_optimizer=adam(o.lr, o.b1, o.b2, o.eps),
            loss=LOSSES[config.loss],
        )

    def init(self, key: jax.Array) -> GANState:
        """Fresh parameters, statistics and optimizer states, drawn from `key`. Pure."""
        gen_key, disc_key = jax.random.split(key)
        g = self.generator
        latent, labels = jnp.zeros((2, g.latent_dim)), jnp.zeros(2, jnp.int32)
        images, gen = g.init_with_output(gen_key, latent, labels, train=True)
        disc = self.discriminator.init(disc_key, images, labels, train=False)
        return GANState(
            step=jnp.zeros((), jnp.int32),
            gen=_net_state(gen, self.gen_optimizer),
            disc=_net_state(disc, self.disc_optimizer),
        )


def _net_state(variables: Any, optimizer: optax.GradientTransformation) -> NetState:
    params = variables["params"]
    return NetState(params, variables.get("batch_stats", {}), optimizer.init(params))
