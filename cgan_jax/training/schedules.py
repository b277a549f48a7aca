"""Values that change during training: Optax schedules of the number of steps done."""

import jax
import jax.numpy as jnp
import optax

from cgan_jax.config import ScheduleName
from cgan_jax.errors import ConfigError

Value = float | jax.Array  # traced where the members of a sweep differ


def schedule(
    name: str, start: Value, end: Value | None, n_steps: int | None, curve: ScheduleName = "cosine"
) -> Value | optax.Schedule:
    """A value on its way from `start` to `end`, or `start` itself if `end` is None.

    `linear` is `start + (end - start) t / n_steps` and `cosine`
    `end + (start - end) (1 + cos(pi t / n_steps)) / 2`, where t steps are done; from
    t = `n_steps` on the value is `end`. `cooldown` is `start` for the first four fifths of
    the steps, then moves to `end` on a cosine (the name is from Hägele et al. 2024, who recommend
    `1 - sqrt`).

    Args:
        name: of the setting, for the message.
        start: the value of the first step.
        end: the value after `n_steps` steps; None for a constant.
        n_steps: the length of the way.
        curve: its shape.

    Returns:
        the constant, or a function from the steps done, an int32 scalar, to a float scalar.

    Raises:
        ConfigError: the value changes, but `n_steps` is None.
    """
    if end is None:
        return start
    if n_steps is None:
        raise ConfigError(
            f"schedule_steps is None, but {name} changes during training\n"
            "expected the number of steps over which it does\nCall config.for_data(dataset)."
        )
    first = n_steps - max(1, n_steps // 5) if curve == "cooldown" else 0
    if curve == "linear":
        way = optax.linear_schedule(start - end, 0.0, n_steps)
    else:
        way = optax.cosine_decay_schedule(start - end, n_steps - first)
    # As a float, since Optax would divide an int32 in float32 even where floats have 64 bits.
    return lambda count: end + way(jnp.maximum(jnp.asarray(count, float) - first, 0))
