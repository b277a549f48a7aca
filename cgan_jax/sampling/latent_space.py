"""Images of latent points, and of the paths between two points and two labels.

Functions of networks, arrays and keys alone. Seeds and labels by name are in generator.py.
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

ProgressFn = Callable[[int, int], object]  # of the number of images that are done, and of all


def latent_points(
    key: jax.Array, indices: jax.Array, latent_dim: int, truncation: float | None = None
) -> jax.Array:
    """The latent points with these indices, `[n, latent_dim]`; each depends on its index alone.

    With a truncation t, from the normal distribution within [-t, t]: the smaller t, the more
    typical and the less varied the pictures (Brock et al. 2019, "Large Scale GAN Training for High
    Fidelity Natural Image Synthesis", section 3.1).
    """
    keys = jax.vmap(partial(random.fold_in, random.fold_in(key, 0)))(indices)
    if truncation is None:
        return jax.vmap(lambda key: random.normal(key, (latent_dim,)))(keys)
    draw = partial(random.truncated_normal, lower=-truncation, upper=truncation)
    return jax.vmap(lambda key: draw(key, shape=(latent_dim,)))(keys)


def slerp(start: jax.Array, end: jax.Array, t: jax.Array | float) -> jax.Array:
    """Points between latent points along an arc, which keeps their lengths typical.

    The straight line between two normal points of many dimensions does not: its middle is shorter
    than any point the generator was trained on (White 2016, "Sampling Generative Networks",
    section 2.1).

    Args:
        start, end: floats `[..., latent_dim]`.
        t: position on the arc, in [0, 1]: one number, or one for each point. At 0 and 1 the result
            is `start` and `end` to the last bit.

    Returns:
        floats `[..., latent_dim]`; on the straight line if the two points have the same or
        opposite directions, between which there is no unique arc.
    """
    t = jnp.asarray(t)[..., None]
    lengths = jnp.linalg.norm(start, axis=-1) * jnp.linalg.norm(end, axis=-1)
    cosine = (start * end).sum(-1) / jnp.where(lengths > 0, lengths, 1)
    angle = jnp.arccos(jnp.clip(cosine, -1, 1))[..., None]
    sine = jnp.sin(angle)
    collinear = (sine < 1e-3) | (lengths == 0)[..., None]
    safe = jnp.where(collinear, 1, sine)
    start_weight = jnp.where(collinear, 1 - t, jnp.sin((1 - t) * angle) / safe)
    end_weight = jnp.where(collinear, t, jnp.sin(t * angle) / safe)
    between = start_weight * start + end_weight * end
    return jnp.where(t == 0, start, jnp.where(t == 1, end, between))


def generate(
    module: nn.Module,
    variables: Any,
    labels: np.ndarray,
    key: jax.Array | None,
    truncation: float | None = None,
    *,
    latent: np.ndarray | None = None,
    on_progress: ProgressFn | None = None,
) -> np.ndarray:
    """Images for class ids, by a generator in evaluation mode.

    Args:
        module: the network; it has a `latent_dim`.
        variables: its collections.
        labels: int32 `[n]`.
        key: of the latent points; point i depends on `(key, i)` alone. None with `latent`.
        truncation: see `latent_points`.
        latent: the latent points themselves, float32 `[n, latent_dim]`.
        on_progress: called after each chunk of images.

    Returns:
        uint8 `[n, H, W, C]`.
    """
    points = np.arange(len(labels), dtype=np.int32) if latent is None else latent
    program = partial(_generate_chunk, module, truncation, variables, key)
    return _in_chunks(program, points, labels, on_progress=on_progress)


def morph(
    module: nn.Module,
    variables: Any,
    labels: tuple[np.ndarray, np.ndarray],
    keys: tuple[jax.Array, jax.Array],
    frames: int,
    truncation: float | None = None,
) -> np.ndarray:
    """Images on the path between two results of `generate`, by `slerp` and mixed embeddings.

    Args:
        module: the network; it has a `latent_dim`.
        variables: its collections.
        labels: at the start and at the end, int32 `[n]` each.
        keys: of the latent points at the start and at the end.
        frames: number of images on each path, at least 2.
        truncation: see `latent_points`.

    Returns:
        uint8 `[frames, n, H, W, C]`; the first and the last frame are the images of `generate`.

    Raises:
        ConfigError: the labels change, and the network has no `flax.linen.Embed` to mix them in.
    """
    n = len(labels[0])
    points = np.tile(np.arange(n, dtype=np.int32), frames)
    starts, ends = (np.tile(ids, frames) for ids in labels)
    t = np.linspace(0, 1, frames, dtype=np.float32).repeat(n)
    mixed = not np.array_equal(*labels)
    program = partial(_morph_chunk, module, truncation, mixed, variables, keys)
    images = _in_chunks(program, points, starts, ends, t)
    return images.reshape(frames, n, *images.shape[1:])


def _in_chunks(
    program: Callable[..., jax.Array], *inputs: np.ndarray, on_progress: ProgressFn | None = None
) -> np.ndarray:
    """The images of a program, CHUNK rows of its inputs at a time; zeros fill the last chunk."""
    n = len(inputs[0])
    images = np.empty(0)
    for start in range(0, max(1, n), CHUNK):
        rows = [array[start : start + CHUNK] for array in inputs]
        missing = CHUNK - len(rows[0])
        padded = [np.pad(r, [(0, missing)] + [(0, 0)] * (r.ndim - 1)) for r in rows]
        chunk = np.asarray(program(*padded))
        if start == 0:
            images = np.empty((n, *chunk.shape[1:]), chunk.dtype)
        images[start : start + CHUNK] = chunk[: CHUNK - missing]
        if on_progress is not None and n:
            on_progress(start + CHUNK - missing, n)
    return images


@partial(jax.jit, static_argnums=(0, 1))
def _generate_chunk(
    module: nn.Module,
    truncation: float | None,
    variables: Any,
    key: jax.Array | None,
    points: jax.Array,
    labels: jax.Array,
) -> jax.Array:
    """Images of latent points, or with a key of their indices."""
    latent = points if key is None else latent_points(key, points, module.latent_dim, truncation)
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
            f"{type(module).__name__} has no label embedding, so two labels cannot be mixed\n"
            "expected a flax.linen.Embed that is called with the labels\n"
            "Use one in the network, or keep the label and change the seed."
        )
    return to_uint8(images)
