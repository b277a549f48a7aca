"""Adam that matches PyTorch's to float32 rounding: an Optax transformation.

`optax.adam` computes `1 - b2**t` in float32, with a relative error of 1e-5 in the first steps.
PyTorch computes it in float64; `expm1` gives the same digits in float32.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cgan_jax.config import OptimizerConfig
from cgan_jax.training.schedules import Value, schedule


def adam_from_config(
    config: OptimizerConfig, schedule_steps: int | None = None, **traced: jax.Array
) -> optax.GradientTransformation:
    """The Adam of a configuration.

    Args:
        config: its settings.
        schedule_steps: steps over which they change, if they do.
        traced: values under jit that take the place of the configuration's, by its names, as the
            `lr` and `b1` of a sweep's members.

    Raises:
        ConfigError: a setting changes, but `schedule_steps` is None.
    """
    now: dict[str, Any] = vars(config) | traced
    lr = schedule("lr", now["lr"], now["lr_end"], schedule_steps, config.schedule)
    b2 = schedule("b2", now["b2"], now["b2_end"], schedule_steps, config.schedule)
    return adam(lr, now["b1"], b2, now["eps"])


def adam(
    lr: Value | optax.Schedule, b1: Value, b2: Value | optax.Schedule, eps: float
) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015, algorithm 1); epsilon is added outside the square root.

    A schedule is called with the number of steps done, 0 at the first. Step t of a changing b2
    divides the running square by `1 - b2_t**t`, as PyTorch's Adam does whose `betas` are set before
    each step.

    Its state is that of `optax.adam`, with schedules too, so a run can switch from one to another.
    """

    def update(
        grads: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, Any]:
        adam_state, no_state = state
        lr_now, b2_now = (each(adam_state.count) if callable(each) else each for each in (lr, b2))
        count = optax.safe_increment(adam_state.count)
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, adam_state.mu, grads)
        nu = jax.tree.map(lambda v, g: b2_now * v + (1 - b2_now) * g * g, adam_state.nu, grads)
        debias1, debias2 = _debias(b1, count), _debias(b2_now, count)
        moves = jax.tree.map(lambda m, v: m * debias1 / (jnp.sqrt(v * debias2) + eps), mu, nu)
        updates = jax.tree.map(lambda move: -lr_now * move, moves)
        return updates, (optax.ScaleByAdamState(count, mu, nu), no_state)

    return optax.GradientTransformation(optax.adam(1.0).init, update)


def _debias(decay: Value, count: jax.Array) -> jax.Array:
    """`1 / (1 - decay**count)`, accurate to rounding."""
    if isinstance(decay, jax.Array):
        return -1 / jnp.expm1(count * jnp.log(decay))
    return -1 / jnp.expm1(count * math.log(decay)) if decay else jnp.ones(())
