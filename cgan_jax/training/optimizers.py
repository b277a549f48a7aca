"""Adam that matches PyTorch's to float32 rounding: an Optax transformation.

`optax.adam` computes `1 - b2**t` in float32, with a relative error of 1e-5 in the first steps.
PyTorch computes it in float64; `expm1` gives the same digits in float32.
"""

import math

import jax
import jax.numpy as jnp
import optax


def adam(
    lr: float | jax.Array, b1: float | jax.Array, b2: float, eps: float
) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015, algorithm 1); epsilon is added outside the square root.

    Its state is that of `optax.adam`, so a run can switch from one to the other.
    """
    return optax.chain(_scale_by_adam(b1, b2, eps), optax.scale_by_learning_rate(lr))


def _scale_by_adam(b1: float | jax.Array, b2: float, eps: float) -> optax.GradientTransformation:
    def update(
        grads: optax.Updates, state: optax.ScaleByAdamState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        count = optax.safe_increment(state.count)
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, grads)
        debias1, debias2 = _debias(b1, count), _debias(b2, count)
        updates = jax.tree.map(lambda m, v: m * debias1 / (jnp.sqrt(v * debias2) + eps), mu, nu)
        return updates, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(optax.scale_by_adam(b1, b2, eps).init, update)


def _debias(decay: float | jax.Array, count: jax.Array) -> jax.Array:
    """`1 / (1 - decay**count)`, accurate to rounding."""
    if isinstance(decay, jax.Array):
        return -1 / jnp.expm1(count * jnp.log(decay))
    return -1 / jnp.expm1(count * math.log(decay)) if decay else jnp.ones(())
