"""What is trained: `GAN` (modules, optimizers, loss: static) and `GANState` (arrays only).

How a step changes the state is in step.py; how it is stored is in cgan_jax/runs/checkpoint.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Self

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
from cgan_jax.training.averaging import Average, average_from_config, is_schedule_free
from cgan_jax.training.optimizers import adam_from_config
from cgan_jax.training.penalties import Penalty, penalty_from_config


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True)
class NetState:
    """One network's arrays. As a tree it has one branch per collection, and `opt_state`.

    Attributes:
        variables: every Flax collection of the module: `params`, a tree of float arrays, and
            perhaps `batch_stats` and others.
        opt_state: the optimizer's state.
    """

    variables: dict[str, Any]
    opt_state: Any

    @property
    def params(self) -> Any:
        """The parameters, which the optimizer moves."""
        return self.variables["params"]

    @property
    def statistics(self) -> list[str]:
        """The names of the other collections, which the module itself updates in training."""
        return sorted(self.variables.keys() - {"params"})

    def replace(self, *, opt_state: Any = None, **collections: Any) -> Self:
        """Another state with these collections, and this optimizer's state if it is given."""
        opt_state = self.opt_state if opt_state is None else opt_state
        return type(self)({**self.variables, **collections}, opt_state)

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], tuple[str, ...]]:
        """The branches with their names, for JAX."""
        names = ("params", *self.statistics)
        branches = [(name, self.variables[name]) for name in names]
        branches.append(("opt_state", self.opt_state))
        return [(jax.tree_util.GetAttrKey(name), tree) for name, tree in branches], names

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], branches: Any) -> Self:
        """The state with these branches, for JAX."""
        *collections, opt_state = branches
        return cls(dict(zip(names, collections, strict=True)), opt_state)


@struct.dataclass
class GANState:
    """Everything that training changes, as a tree of arrays.

    Attributes:
        step: int32 scalar, the number of steps done: the run's only clock.
        gen: the generator's.
        disc: the discriminator's.
        average: the running average of the generator's variables; None, which has no leaf, of a
            GAN that keeps none.
        extra: whatever else a step of your own carries: any tree of arrays, first that of
            `GAN.init_extra`.
    """

    step: jax.Array
    gen: NetState
    disc: NetState
    average: Any = None
    extra: Any = None

    @property
    def sampling_variables(self) -> Any:
        """The generator's variables to sample, measure and export: the average where it is kept."""
        return self.gen.variables if self.average is None else self.average


@dataclass(frozen=True)
class GAN:
    """The two networks, their optimizers and the loss. Hashable: a static argument under jit.

    Any modules with these signatures work. They may have any collections beside `params`, and draw
    from `dropout`, `noise` or other streams in training. A generator that draws in evaluation too
    gets keys that depend on the seed and the image's index alone. Build it once: two Optax
    transformations made by equal calls are not equal, and jit would trace again. To change a part,
    use `dataclasses.replace(gan, loss=...)`; a step may do so as well, with functions of its state.

    Args:
        generator: maps `(latent, labels, train=)`, float32 `[B, latent_dim]` and int32 `[B]`, to
            images in [-1, 1], `[B, H, W, channels]`; its fields say `n_classes`, `latent_dim`,
            `img_size` (an integer, or `(H, W)`) and `channels`. With a field `condition_dim`
            instead of `n_classes`, labels are vectors, float32 `[B, condition_dim]`.
        discriminator: maps `(images, labels, train=)` to raw scores `[B]`, or to a tuple that
            begins with them; see `AdversarialLoss.outputs`.
        gen_optimizer: any Optax transformation; one that takes `value=` gets the loss.
        disc_optimizer: likewise.
        loss: on raw scores.
        penalty: a term to add to the discriminator's loss; see `cgan_jax.training.penalties`.
        augment: a random change of every image that the discriminator sees; see
            `cgan_jax.training.augment`.
        average: the running average of the generator; see `cgan_jax.training.averaging`. Without
            one, a schedule-free optimizer's evaluation parameters are kept in its place.
        disc_steps: updates of the discriminator for each of the generator; a step's batch is split
            between them.
        init_extra: makes the first `GANState.extra`.

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
    disc_steps: int = 1
    init_extra: Callable[[], Any] | None = None

    def __post_init__(self) -> None:
        check_generator(self.generator)
        if not isinstance(self.loss, AdversarialLoss):
            raise ConfigError(
                f"loss is {short_repr(self.loss)}\nexpected an AdversarialLoss\n"
                "Pass one of cgan_jax.LOSSES, or AdversarialLoss(discriminator, generator)."
            )
        for name in ("penalty", "augment", "average", "init_extra"):
            part = getattr(self, name)
            if part is not None and not callable(part):
                raise ConfigError(
                    f"{name} is {short_repr(part)}\nexpected a function, or None\n"
                    f"Pass one with the signature that GAN's docstring refers to, or omit it."
                )
        check_int("every", getattr(self.penalty, "every", 1), 1, hint="Correct the penalty's.")
        check_int("disc_steps", self.disc_steps, 1, hint="Omit it for the default, 1.")

    @staticmethod
    def from_config(config: TrainConfig = PRESETS["report"]) -> "GAN":
        """All parts that a configuration names.

        Configurations that differ in no part share one object, and so one compiled program.

        Raises:
            ConfigError: something changes during training, but `schedule_steps` is None.
        """
        gen, disc = config.optimizer, config.disc_optimizer or config.optimizer
        steps = config.schedule_steps if gen.is_scheduled or disc.is_scheduled else None
        return _cached_gan(
            *networks(config.model),
            gen_optimizer=_cached_adam(gen, steps),
            disc_optimizer=_cached_adam(disc, steps),
            loss=LOSSES[config.loss],
            penalty=penalty_from_config(config.penalty, config.schedule_steps),
            augment=augment_from_config(config.augment, config.background),
            average=average_from_config(config.average, config.images_per_step),
            disc_steps=config.disc_steps,
        )

    def init(self, key: jax.Array) -> GANState:
        """Fresh parameters, statistics and optimizer states, drawn from `key`. Pure.

        Raises:
            ConfigError: a network's output has another shape than it should.
        """
        gen_key, disc_key = jax.random.split(key)
        images, gen = _init_generator(self.generator, gen_key)
        labels = example_labels(self.generator)
        output, disc = self.discriminator.init_with_output(
            init_keys(disc_key), images, labels, train=False
        )
        scores_of(output, len(images))
        gen_state = _net_state(gen, self.gen_optimizer)
        average = None
        if self.average or is_schedule_free(gen_state.opt_state):
            # Copies: a step that is given its state to reuse must not be given an array twice.
            average = jax.tree.map(jnp.copy, gen_state.variables)
        return GANState(
            step=jnp.zeros((), jnp.int32),
            gen=gen_state,
            disc=_net_state(disc, self.disc_optimizer),
            average=average,
            extra=self.init_extra() if self.init_extra else None,
        )


# Equal settings give one object: Optax's transformations of equal settings are not equal.
_cached_adam, _cached_gan = lru_cache(adam_from_config), lru_cache(GAN)


def check_generator(generator: nn.Module) -> None:
    """Raises ConfigError if a module lacks a field that states a generator's sizes."""
    conditions = "n_classes" if condition_dim(generator) is None else "condition_dim"
    for name in (conditions, "latent_dim", "img_size", "channels"):
        value = getattr(generator, name, None)
        if (as_img_size(value) if name == "img_size" else as_int(value)) is None:
            raise ConfigError(
                f"the generator {type(generator).__name__} has no {name}\n"
                "expected integers n_classes, latent_dim and channels, and img_size, an integer or "
                "(height, width)\n"
                f"Add the field, as `{name}: int = ...`."
            )


def condition_dim(generator: Any) -> int | None:
    """The width of the vectors that a generator takes as labels; None of one that takes ids."""
    return getattr(generator, "condition_dim", None)


def example_labels(generator: Any, n: int = 2) -> jax.Array:
    """Labels of the kind that a generator takes: n zeros, int32 `[n]` or floats `[n, K]`."""
    width = condition_dim(generator)
    return jnp.zeros(n, jnp.int32) if width is None else jnp.zeros((n, width))


def scores_of(output: Any, n_images: int) -> jax.Array:
    """The scores in a discriminator's output: itself, or the first element of a tuple.

    Raises:
        ConfigError: not one score per image.
    """
    scores = output[0] if isinstance(output, tuple | list) else output
    shape = getattr(scores, "shape", None)
    if shape != (n_images,):
        what = type(scores).__name__ if shape is None else list(shape)
        raise ConfigError(
            f"the discriminator gives {what} for {n_images} images\n"
            f"expected one score each, [{n_images}], or a tuple that begins with them\n"
            "End it with scores[:, 0], for example."
        )
    return scores


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
    disc: Any = None
    return GANState(step, NetState(dict(variables), None), disc)


def init_keys(key: jax.Array) -> dict[str, jax.Array]:
    """The streams that a module's first variables, and its first output, are drawn from."""
    others = ("dropout", "noise")  # which a module of NNX asks for when it is made
    return {"params": key} | {name: jax.random.fold_in(key, i) for i, name in enumerate(others)}


def _init_generator(generator: nn.Module, key: jax.Array) -> tuple[jax.Array, Any]:
    """Two images, and the network's variables."""
    latent, labels = jnp.zeros((2, generator.latent_dim)), example_labels(generator)
    images, variables = generator.init_with_output(init_keys(key), latent, labels, train=True)
    expected = (2, *image_shape(generator))
    if images.shape != expected:
        raise ConfigError(
            f"the generator makes {list(images.shape)} from 2 latent points and labels\n"
            f"expected {list(expected)}, as its img_size and channels say\nReshape its output."
        )
    return images, variables


def _net_state(variables: Any, optimizer: optax.GradientTransformation) -> NetState:
    return NetState(dict(variables), optimizer.init(variables["params"]))
