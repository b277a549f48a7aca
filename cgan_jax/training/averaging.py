"""The running average of the generator: what is sampled, measured and exported where it is kept.

An average is a function; `GAN(average=...)` takes any with the signature of `Average`.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from cgan_jax.checks import Positive, check_fields, check_int
from cgan_jax.config import AverageConfig


class Average(Protocol):
    """One step of a running average."""

    def __call__(self, average: Any, variables: Any, step: jax.Array) -> Any:
        """Take the generator's newest variables into the average.

        Args:
            average: the average so far; before the first step, the generator's first variables.
            variables: the generator's `params` and `batch_stats` after this step's update. Average
                both: averaged parameters with unaveraged statistics are a mixture of two networks.
            step: int32 scalar, how many steps are done, this one included.

        Returns:
            the new average, a tree like `variables`.
        """


@dataclass(frozen=True)
class RampedAverage:
    """An exponential moving average that forgets the first generators soon (Karras et al. 2020).

    `average += (1 - decay) (variables - average)` with `decay = 0.5 ** (batch_size / h)` and
    `h = min(half_life, ramp * images seen)`; step s has seen `s * batch_size` images, its own
    included.

    Args:
        batch_size: images per step; an epoch's smaller last batch counts as a whole one.
        half_life: images after which the weight of a generator in the average has halved.
        ramp: the largest half-life, as a share of the images seen; None for no such bound.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """

    batch_size: int
    half_life: Positive = 40_000
    ramp: Positive | None = 0.05

    def __post_init__(self) -> None:
        check_int("batch_size", self.batch_size, 1, hint="Pass the configuration's.")
        check_fields(self)

    def __call__(self, average: Any, variables: Any, step: jax.Array) -> Any:
        """See `Average`."""
        half_life = jnp.asarray(self.half_life, float)
        if self.ramp is not None:
            images_seen = jnp.asarray(step, float) * self.batch_size
            half_life = jnp.minimum(half_life, self.ramp * images_seen)
        # 1 - decay without the cancellation: float32 would lose four of its digits.
        take = -jnp.expm1(-math.log(2) * self.batch_size / half_life)
        return jax.tree.map(lambda a, v: (a + take * (v - a)).astype(a.dtype), average, variables)


def average_from_config(config: AverageConfig, batch_size: int) -> RampedAverage | None:
    """The average of a configuration; None if it keeps none."""
    return RampedAverage(batch_size, config.half_life, config.ramp) if config.keep else None


def is_schedule_free(opt_state: Any) -> bool:
    """Whether an optimizer is schedule-free (Defazio et al. 2024), alone or within a chain."""
    return bool(_schedule_free_states(opt_state))


def evaluation_params(opt_state: Any, params: Any) -> Any:
    """The parameters to evaluate a network with: its own, unless its optimizer is schedule-free."""
    states = _schedule_free_states(opt_state)
    return optax.contrib.schedule_free_eval_params(states[0], params) if states else params


def _schedule_free_states(opt_state: Any) -> list[Any]:
    kind = optax.contrib.ScheduleFreeState
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kind))
    return [leaf for leaf in leaves if isinstance(leaf, kind)]
