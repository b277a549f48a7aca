"""Images of latent points, and of the ways between two points and two labels.

Functions of networks, arrays and keys alone. Seeds and labels by name are sampling.py's.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import random

from cgan_jax.errors import ConfigError
from cgan_jax.models.value_range import to_uint8

CHUNK = 256  # images at a time: one compiled shape, and rounding that no batching changes


def latent_points(
    key: jax.Array, indices: jax.Array, latent_dim: int, truncation: float | None = None
) -> jax.Array:
    """The latent points with these indices, `[n, latent_dim]`; each depends on its own alone.

    With a truncation t, from the normal distribution within [-t, t]: the smaller, the more typical
    the pictures and the less they vary (Brock et al. 2019, "Large Scale GAN Training for High
    Fidelity Natural Image Synthesis", section 3.1).
    """
    keys = jax.vmap(partial(random.fold_in, random.fold_in(key, 0)))(indices)
    if truncation is None:
        return jax.vmap(lambda key: random.normal(key, (latent_dim,)))(keys)
    draw = partial(random.truncated_normal, lower=-truncation, upper=truncation)
    return jax.vmap(lambda key: draw(key, shape=(latent_dim,)))(keys)


def slerp(start: jax.Array, end: jax.Array, t: jax.Array | float) -> jax.Array:
    """The points between latent points along an arc, on which lengths stay those of such points.

    Half-way along the straight line between two normal points of many dimensions lies one that is
    shorter than any the generator was trained on (White 2016, "Sampling Generative Networks",
    section 2.1).

    Args:
        start, end: floats `[..., latent_dim]`.
        t: how far along, in [0, 1]: one number, or one for each point. At 0 and 1 the result is
            `start` and `end` to the last bit.

    Returns:
        floats `[..., latent_dim]`. Where the two point the same way, or in opposite ones, there is
        no one arc: there the straight line.
    """
    t = jnp.asarray(t)[..., None]
    lengths = jnp.linalg.norm(start, axis=-1) * jnp.linalg.norm(end, axis=-1)
    cosine = (start * end).sum(-1) / jnp.where(lengths > 0, lengths, 1)
    angle = jnp.arccos(jnp.clip(cosine, -1, 1))[..., None]
    sine = jnp.sin(angle)
    on_a_line = (sine < 1e-3) | (lengths == 0)[..., None]
    safe = jnp.where(on_a_line, 1, sine)
    of_start = jnp.where(on_a_line, 1 - t, jnp.sin((1 - t) * angle) / safe)
    of_end = jnp.where(on_a_line, t, jnp.sin(t * angle) / safe)
    between = of_start * start + of_end * end
    return jnp.where(t == 0, start, jnp.where(t == 1, end, between))


def generate(
    module: nn.Module,
    variables: Any,
    labels: np.ndarray,
    key: jax.Array,
    truncation: float | None = None,
) -> np.ndarray:
    """Images for class ids, by a generator in evaluation mode.

    Args:
        module: the network; it has a `latent_dim`.
        variables: its collections.
        labels: int32 `[n]`.
        key: of the latent points; that of image i depends on `(key, i)` alone.
        truncation: see `latent_points`.

    Returns:
        uint8 `[n, H, W, C]`.
    """
    points = np.arange(len(labels), dtype=np.int32)
    program = partial(_generate_chunk, module, truncation, variables, key)
    return _in_chunks(program, points, labels)


def morph(
    module: nn.Module,
    variables: Any,
    labels: tuple[np.ndarray, np.ndarray],
    keys: tuple[jax.Array, jax.Array],
    frames: int,
    truncation: float | None = None,
) -> np.ndarray:
    """Images on the way from one `generate` to another: through the label embedding, by `slerp`.

    Args:
        module: the network; it has a `latent_dim`.
        variables: its collections.
        labels: int32 `[n]` at the start, and as many at the end.
        keys: of the latent points at the start and at the end.
        frames: how many, at least 2.
        truncation: see `latent_points`.

    Returns:
        uint8 `[frames, n, H, W, C]`; the first and the last are what `generate` makes.

    Raises:
        ConfigError: the labels change, and the network has no `flax.linen.Embed` to mix them in.
    """
    n = len(labels[0])
    points = np.tile(np.arange(n, dtype=np.int32), frames)
    starts, ends = (np.tile(of, frames) for of in labels)
    t = np.linspace(0, 1, frames, dtype=np.float32).repeat(n)
    mixed = not np.array_equal(*labels)
    program = partial(_morph_chunk, module, truncation, mixed, variables, keys)
    images = _in_chunks(program, points, starts, ends, t)
    return images.reshape(frames, n, *images.shape[1:])


def _in_chunks(program: Callable[..., jax.Array], *rows: np.ndarray) -> np.ndarray:
    """What a program makes of rows, CHUNK of them at a time; the last ones are filled up with 0."""
    n = len(rows[0])
    made = []
    for start in range(0, max(1, n), CHUNK):
        parts = [of[start : start + CHUNK] for of in rows]
        made.append(program(*(np.pad(part, (0, CHUNK - len(part))) for part in parts)))
    return np.concatenate(made)[:n]


@partial(jax.jit, static_argnums=(0, 1))
def _generate_chunk(
    module: nn.Module,
    truncation: float | None,
    variables: Any,
    key: jax.Array,
    points: jax.Array,
    labels: jax.Array,
) -> jax.Array:
    latent = latent_points(key, points, module.latent_dim, truncation)
    images: Any = module.apply(variables, latent, labels, train=False)
    return to_uint8(images)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _morph_chunk(
    module: nn.Module,
    truncation: float | None,
    mixed: bool,
    variables: Any,
    keys: tuple[jax.Array, jax.Array],
    points: jax.Array,
    starts: jax.Array,
    ends: jax.Array,
    t: jax.Array,
) -> jax.Array:
    start, end = (latent_points(key, points, module.latent_dim, truncation) for key in keys)
    embeddings = 0

    def mix(method: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        nonlocal embeddings
        if mixed and isinstance(context.module, nn.Embed) and context.method_name == "__call__":
            embeddings += 1
            return (1 - t)[:, None] * method(starts) + t[:, None] * method(ends)
        return method(*args, **kwargs)

    with nn.intercept_methods(mix):
        images: Any = module.apply(variables, slerp(start, end, t), starts, train=False)
    if mixed and not embeddings:
        raise ConfigError(
            f"{type(module).__name__} has no embedding of labels in which to mix two\n"
            "expected a flax.linen.Embed that is given the labels\n"
            "Use one in the network, or keep the label and change the seed."
        )
    return to_uint8(images)
