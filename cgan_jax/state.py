"""What is trained: `GAN` (modules, optimizers, loss: static) and `GANState` (arrays only).

How a step changes the state is in steps.py; how it is stored is in checkpoint.py.
"""

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from cgan_jax.adam import adam
from cgan_jax.checks import as_whole
from cgan_jax.config import PRESETS, TrainConfig
from cgan_jax.errors import ConfigError
from cgan_jax.losses import LOSSES, AdversarialLoss
from cgan_jax.models import Discriminator, Generator


@struct.dataclass
class NetState:
    """One network's arrays.

    Attributes:
        params: the parameters, a tree of float arrays.
        batch_stats: what BatchNorm and the like keep beside them; may be empty.
        opt_state: the optimizer's state.
    """

    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What the network's `apply` takes: `params` and `batch_stats`."""
        return {"params": self.params, "batch_stats": self.batch_stats}


@struct.dataclass
class GANState:
    """Everything that training changes: a tree of arrays.

    Attributes:
        step: int32 scalar, how many steps are done: the run's only clock.
        gen: the generator's.
        disc: the discriminator's.
    """

    step: jax.Array
    gen: NetState
    disc: NetState


@dataclass(frozen=True)
class GAN:
    """The two networks, their optimizers and the loss. Hashable: a static argument under jit.

    Any modules with these signatures will do. They may have `params` and `batch_stats`, and draw
    from `dropout` in the discriminator. Build it once: two Optax transforms made by equal calls are
    not equal, and jit would trace anew. To change a part: `dataclasses.replace(gan, loss=...)`.

    Args:
        generator: maps `(latent, labels, train=)`, float32 `[B, latent_dim]` and int32 `[B]`, to
            images in [-1, 1], `[B, img_size, img_size, channels]`; its fields say `n_classes`,
            `latent_dim`, `img_size` and `channels`.
        discriminator: maps `(images, labels, train=)` to raw scores `[B]`.
        gen_optimizer: any Optax transformation.
        disc_optimizer: likewise.
        loss: on raw scores.

    Raises:
        ConfigError: the generator lacks a field.
    """

    generator: nn.Module
    discriminator: nn.Module
    gen_optimizer: optax.GradientTransformation
    disc_optimizer: optax.GradientTransformation
    loss: AdversarialLoss = LOSSES["least_squares"]

    def __post_init__(self) -> None:
        check_generator(self.generator)

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
        """Fresh parameters, statistics and optimizer states, drawn from `key`. Pure.

        Raises:
            ConfigError: a network's output has another shape than it should.
        """
        gen_key, disc_key = jax.random.split(key)
        images, gen = _init_generator(self.generator, gen_key)
        labels = jnp.zeros(len(images), jnp.int32)
        scores, disc = self.discriminator.init_with_output(disc_key, images, labels, train=False)
        if scores.shape != labels.shape:
            raise ConfigError(
                f"the discriminator gives {list(scores.shape)} for {len(labels)} images\n"
                f"expected a score each, {list(labels.shape)}\nEnd it as with scores[:, 0]."
            )
        return GANState(
            step=jnp.zeros((), jnp.int32),
            gen=_net_state(gen, self.gen_optimizer),
            disc=_net_state(disc, self.disc_optimizer),
        )


def check_generator(generator: nn.Module) -> None:
    """Raises ConfigError where a module lacks a field by which a generator says its sizes."""
    for name in ("n_classes", "latent_dim", "img_size", "channels"):
        if as_whole(getattr(generator, name, None)) is None:
            raise ConfigError(
                f"the generator {type(generator).__name__} has no {name}\n"
                "expected n_classes, latent_dim, img_size and channels, whole numbers\n"
                f"Give it the field, as `{name}: int = ...`."
            )


def generator_like(generator: nn.Module) -> GANState:
    """What of a state a trained generator needs: shapes and dtypes. The other fields are None.

    Raises:
        ConfigError: the module is no generator; see `GAN`.
    """
    check_generator(generator)
    _, variables = jax.eval_shape(partial(_init_generator, generator), jax.random.key(0))
    step: Any = jax.ShapeDtypeStruct((), jnp.int32)
    gen = NetState(variables["params"], variables.get("batch_stats", {}), None)
    disc: Any = None
    return GANState(step, gen, disc)


def _init_generator(generator: nn.Module, key: jax.Array) -> tuple[jax.Array, Any]:
    """Two images, and the network's variables."""
    latent, labels = jnp.zeros((2, generator.latent_dim)), jnp.zeros(2, jnp.int32)
    images, variables = generator.init_with_output(key, latent, labels, train=True)
    expected = (2, generator.img_size, generator.img_size, generator.channels)
    if images.shape != expected:
        raise ConfigError(
            f"the generator makes {list(images.shape)} of 2 latent points and labels\n"
            f"expected {list(expected)}, as its img_size and channels say\nReshape its output."
        )
    return images, variables


def _net_state(variables: Any, optimizer: optax.GradientTransformation) -> NetState:
    params = variables["params"]
    return NetState(params, variables.get("batch_stats", {}), optimizer.init(params))
