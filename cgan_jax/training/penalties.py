"""Penalties on the gradient of the discriminator's score with respect to its images.

A penalty is a function; `GAN(penalty=...)` takes any with the signature of `Penalty`.
`WeightedPenalty` gives any of them a weight, constant or not, in all steps or a few.
"""

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import random

from cgan_jax.checks import Count, NotNegative, check_fields
from cgan_jax.config import PenaltyConfig, PenaltyName
from cgan_jax.training.schedules import schedule

Labelled = tuple[jax.Array, jax.Array]
"""Images in [-1, 1], `[B, H, W, C]`, and their labels, int32 `[B]` or floats `[B, K]`."""


@dataclass(frozen=True)
class ScoreFn:
    """The discriminator in training mode: `score(images, labels)` is its scores, `[B]`.

    Attributes:
        output: the same for all that it returns: the scores, or a tuple that begins with them.
    """

    output: Callable[[jax.Array, jax.Array], Any]

    def __call__(self, images: jax.Array, labels: jax.Array) -> jax.Array:
        output = self.output(images, labels)
        scores: jax.Array = output[0] if isinstance(output, tuple | list) else output
        return scores


class Penalty(Protocol):
    """A term that is added to the discriminator's loss.

    If it has an attribute `every`, it is left out in the steps that `every` does not divide. One
    that depends on `GANState.extra` is a function that a step of your own makes from it.
    """

    def __call__(
        self, score: ScoreFn, real: Labelled, fake: Labelled, *, step: jax.Array, key: jax.Array
    ) -> jax.Array:
        """The penalty of one batch.

        Args:
            score: the discriminator, augmentation included, to differentiate by its images. Each
                call reuses the dropout masks, augmentation and statistics of the step's first pass.
            real: images in [-1, 1], `[B, H, W, C]`, and their labels, int32 `[B]`.
            fake: the same of the fakes, which are constants here.
            step: int32 scalar, how many steps are done.
            key: for what the penalty draws.

        Returns:
            a float scalar.
        """


def r1(
    score: ScoreFn, real: Labelled, fake: Labelled, *, step: jax.Array, key: jax.Array
) -> jax.Array:
    """`E ||grad_x D(x)||^2 / 2` on real images. Mescheder et al. 2018, equation 9."""
    return _squared_norms(score, *real).mean() / 2


def r2(
    score: ScoreFn, real: Labelled, fake: Labelled, *, step: jax.Array, key: jax.Array
) -> jax.Array:
    """`E ||grad_x D(G(z))||^2 / 2` on fakes. Mescheder et al. 2018, equation 10."""
    return _squared_norms(score, *fake).mean() / 2


def r1_r2(
    score: ScoreFn, real: Labelled, fake: Labelled, *, step: jax.Array, key: jax.Array
) -> jax.Array:
    """R1 + R2, as in Huang et al. 2024."""
    return r1(score, real, fake, step=step, key=key) + r2(score, real, fake, step=step, key=key)


def wgan_gp(
    score: ScoreFn, real: Labelled, fake: Labelled, *, step: jax.Array, key: jax.Array
) -> jax.Array:
    """`E (||grad_x D(u x + (1 - u) G(z))|| - 1)^2`. Gulrajani et al. 2017, equation 3.

    Each pair has its own u, uniform in [0, 1), and the label of its real image.
    """
    (images, labels), (fakes, _) = real, fake
    share_Bx1x1x1 = random.uniform(key, (len(labels), 1, 1, 1), images.dtype)
    mixed = share_Bx1x1x1 * images + (1 - share_Bx1x1x1) * fakes
    squared_B = _squared_norms(score, mixed, labels)
    # The root's slope is infinite at 0, and infinity times 0 is NaN: 0 takes its place there.
    is_zero_B = squared_B == 0
    norms_B = jnp.where(is_zero_B, 0, jnp.sqrt(jnp.where(is_zero_B, 1, squared_B)))
    return jnp.square(norms_B - 1).mean()


PENALTIES: Mapping[PenaltyName, Penalty] = {"r1": r1, "r2": r2, "r1_r2": r1_r2, "wgan_gp": wgan_gp}
"""The penalties, of weight 1, by the names that a `PenaltyConfig` has for them."""


@dataclass(frozen=True)
class WeightedPenalty:
    """A penalty times `every * gamma`, in each step that `every` divides and in no other.

    Args:
        penalty: the function.
        gamma: its weight.
        gamma_end: the weight after `schedule_steps` steps, reached on a cosine, and from there on;
            None for a constant one.
        schedule_steps: only read where the weight changes.
        every: steps from one penalty to the next; the training step leaves it out in the others.

    Raises:
        ConfigError: a value is of the wrong type or out of range; the weight changes, but
            `schedule_steps` is None.
    """

    penalty: Penalty
    gamma: NotNegative = 1.0
    _: KW_ONLY
    gamma_end: NotNegative | None = None
    schedule_steps: int | None = None
    every: Count = 1

    def __post_init__(self) -> None:
        check_fields(self)
        schedule("gamma", self.gamma, self.gamma_end, self.schedule_steps)

    def __call__(
        self, score: ScoreFn, real: Labelled, fake: Labelled, *, step: jax.Array, key: jax.Array
    ) -> jax.Array:
        """See `Penalty`. That it is called in some steps alone is up to the training step."""
        gamma = schedule("gamma", self.gamma, self.gamma_end, self.schedule_steps)
        weight = self.every * (gamma(step) if callable(gamma) else gamma)
        return weight * self.penalty(score, real, fake, step=step, key=key)


def penalty_from_config(
    config: PenaltyConfig, schedule_steps: int | None = None
) -> WeightedPenalty | None:
    """The penalty of a configuration; None if it has none.

    Args:
        config: its settings.
        schedule_steps: steps over which its weight changes, if it does.

    Raises:
        ConfigError: the weight changes, but `schedule_steps` is None.
    """
    if config.kind == "none":
        return None
    return WeightedPenalty(
        PENALTIES[config.kind],
        config.gamma,
        gamma_end=config.gamma_end,
        schedule_steps=None if config.gamma_end is None else schedule_steps,
        every=config.every,
    )


def _squared_norms(score: ScoreFn, images: jax.Array, labels: jax.Array) -> jax.Array:
    """`||grad_x D(x)||^2`, summed over each image's pixels and channels, `[B]`."""
    grads = jax.grad(lambda images: score(images, labels).sum())(images)
    return jnp.square(grads).sum((1, 2, 3))
