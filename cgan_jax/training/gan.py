"""What is trained: `GAN` (modules, optimizers, loss: static) and `GANState` (arrays only).

How a step changes the state is in steps.py; how it is stored is in cgan_jax/runs/checkpoint.py.
"""

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from cgan_jax.checks import as_img_size, as_int, check_int, height_and_width, short_repr
from cgan_jax.config import TrainConfig
from cgan_jax.errors import ConfigError
from cgan_jax.losses import LOSSES, AdversarialLoss
from cgan_jax.models import networks
from cgan_jax.presets import PRESETS
from cgan_jax.training.augment import Augment, augment_from_config
from cgan_jax.training.averaging import Average, average_from_config
from cgan_jax.training.optimizers import adam_from_config
from cgan_jax.training.penalties import Penalty, penalty_from_config


@struct.dataclass
class NetState:
    """One network's arrays.

    Attributes:
        params: the parameters, a tree of float arrays.
        batch_stats: statistics beside them, of BatchNorm for one; may be empty.
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
    """Everything that training changes, as a tree of arrays.

    Attributes:
        step: int32 scalar, the number of steps done: the run's only clock.
        gen: the generator's.
        disc: the discriminator's.
        average: the running average of the generator's variables; None, which has no leaf, of a
            GAN that keeps none.
    """

    step: jax.Array
    gen: NetState
    disc: NetState
    average: Any = None

    @property
    def shown(self) -> Any:
        """The generator's variables to sample, measure and export: the average where it is kept."""
        return self.gen.variables if self.average is None else self.average


@dataclass(frozen=True)
class GAN:
    """The two networks, their optimizers and the loss. Hashable: a static argument under jit.

    Any modules with these signatures work. They may have `params` and `batch_stats`, and the
    discriminator may draw from `dropout`. Build it once: two Optax transformations made by equal
    calls are not equal, and jit would trace again. To change a part, use
    `dataclasses.replace(gan, loss=...)`.

    Args:
        generator: maps `(latent, labels, train=)`, float32 `[B, latent_dim]` and int32 `[B]`, to
            images in [-1, 1], `[B, H, W, channels]`; its fields say `n_classes`, `latent_dim`,
            `img_size` (an integer, or `(H, W)`) and `channels`.
        discriminator: maps `(images, labels, train=)` to raw scores `[B]`.
        gen_optimizer: any Optax transformation.
        disc_optimizer: likewise.
        loss: on raw scores.
        penalty: a term to add to the discriminator's loss; see `cgan_jax.training.penalties`.
        augment: a random change of every image that the discriminator sees; see
            `cgan_jax.training.augment`.
        average: the running average of the generator; see `cgan_jax.training.averaging`.

    A part that is None is not in the compiled program, and the state has no array for it.

    Raises:
        ConfigError: the generator lacks a field, or a part is of the wrong type.
    """

    generator: nn.Module
    discriminator: nn.Module
    gen_optimizer: optax.GradientTransformation
    disc_optimizer: optax.GradientTransformation
    loss: AdversarialLoss = LOSSES["least_squares"]
    penalty: Penalty | None = None
    augment: Augment | None = None
    average: Average | None = None

    def __post_init__(self) -> None:
        check_generator(self.generator)
        if not isinstance(self.loss, AdversarialLoss):
            raise ConfigError(
                f"loss is {short_repr(self.loss)}\nexpected an AdversarialLoss\n"
                "Pass one of cgan_jax.LOSSES, or AdversarialLoss(discriminator, generator)."
            )
        for name in ("penalty", "augment", "average"):
            part = getattr(self, name)
            if part is not None and not callable(part):
                raise ConfigError(
                    f"{name} is {short_repr(part)}\nexpected a function, or None\n"
                    f"Pass one with the signature that GAN's docstring refers to, or omit it."
                )
        check_int("every", getattr(self.penalty, "every", 1), 1, hint="Correct the penalty's.")

    @staticmethod
    def from_config(config: TrainConfig = PRESETS["report"]) -> "GAN":
        """All parts that a configuration names.

        Configurations that differ in no part share one object, and so one compiled program.

        Raises:
            ConfigError: something changes during training, but `schedule_steps` is None.
        """
        gen, disc = config.optimizer, config.disc_optimizer or config.optimizer
        steps = config.schedule_steps if gen.changes or disc.changes else None
        return _cached_gan(
            *networks(config.model),
            gen_optimizer=_cached_adam(gen, steps),
            disc_optimizer=_cached_adam(disc, steps),
            loss=LOSSES[config.loss],
            penalty=penalty_from_config(config.penalty, config.schedule_steps),
            augment=augment_from_config(config.augment, config.background),
            average=average_from_config(config.average, config.batch_size),
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
                f"expected one score each, {list(labels.shape)}\n"
                "End it with scores[:, 0], for example."
            )
        return GANState(
            step=jnp.zeros((), jnp.int32),
            gen=(gen_state := _net_state(gen, self.gen_optimizer)),
            disc=_net_state(disc, self.disc_optimizer),
            # Copies: a step that is given its state to reuse must not be given an array twice.
            average=jax.tree.map(jnp.copy, gen_state.variables) if self.average else None,
        )


# Equal settings give one object: Optax's transformations of equal settings are not equal.
_cached_adam, _cached_gan = lru_cache(adam_from_config), lru_cache(GAN)


def check_generator(generator: nn.Module) -> None:
    """Raises ConfigError if a module lacks a field that states a generator's sizes."""
    for name in ("n_classes", "latent_dim", "img_size", "channels"):
        value = getattr(generator, name, None)
        if (as_img_size(value) if name == "img_size" else as_int(value)) is None:
            raise ConfigError(
                f"the generator {type(generator).__name__} has no {name}\n"
                "expected integers n_classes, latent_dim and channels, and img_size, an integer or "
                "(height, width)\n"
                f"Add the field, as `{name}: int = ...`."
            )


def image_shape(generator: Any) -> tuple[int, int, int]:
    """Height, width and channels of a generator's images."""
    return *height_and_width(generator.img_size), generator.channels


def generator_like(generator: nn.Module) -> GANState:
    """The part of a GANState that sampling needs: shapes and dtypes; the other fields are None.

    Raises:
        ConfigError: the module is not a generator; see `GAN`.
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
    expected = (2, *image_shape(generator))
    if images.shape != expected:
        raise ConfigError(
            f"the generator makes {list(images.shape)} from 2 latent points and labels\n"
            f"expected {list(expected)}, as its img_size and channels say\nReshape its output."
        )
    return images, variables


def _net_state(variables: Any, optimizer: optax.GradientTransformation) -> NetState:
    params = variables["params"]
    return NetState(params, variables.get("batch_stats", {}), optimizer.init(params))
