"""Images of latent points, and of the paths between two points and two labels.

Functions of networks, arrays and keys alone. Seeds and labels by name are in generator.py.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import random

from cgan_jax.data.stack import ProgressFn
from cgan_jax.errors import ConfigError
from cgan_jax.models.value_range import to_uint8

CHUNK = 256  # images at a time: one compiled shape, and rounding that no batching changes

EmbedFn = Callable[[jax.Array], jax.Array]  # of labels, or of weights of all classes


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
    key: jax.Array,
    truncation: float | None = None,
    *,
    latent: np.ndarray | None = None,
    on_progress: ProgressFn | None = None,
) -> np.ndarray:
    """Images of some labels, by a generator in evaluation mode.

    Args:
        module: the network; it has a `latent_dim`.
        variables: its collections.
        labels: class ids, int32 `[n]`; or vectors, float32 `[n, K]`.
        key: of the latent points, and of the noise that the network itself draws, if it does; both
            of image i depend on `(key, i)` alone.
        truncation: see `latent_points`.
        latent: the latent points themselves, float32 `[n, latent_dim]`.
        on_progress: called after each chunk of images.

    Returns:
        uint8 `[n, H, W, C]`.
    """
    indices = np.arange(len(labels), dtype=np.int32)
    points = () if latent is None else (latent,)
    program = partial(_generate_chunk, module, truncation, variables, key)
    (images,) = in_chunks(program, CHUNK, indices, labels, *points, on_progress=on_progress)
    return images


def morph(
    module: nn.Module,
    variables: Any,
    labels: tuple[np.ndarray, np.ndarray],
    keys: tuple[jax.Array, jax.Array],
    frames: int,
    truncation: float | None = None,
    *,
    latent: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Images on the path between two results of `generate`, by `slerp` and mixed embeddings.

    Args:
        module: the network; it has a `latent_dim`.
        variables: its collections.
        labels: at the start and at the end, int32 `[n]` each; or weights of all classes, whose
            embeddings are mixed with them, float32 `[n, classes]` each.
        keys: of the latent points at the start and at the end, and the first one of the noise that
            the network itself draws, if it does: the same in all images of a path.
        frames: number of images on each path, at least 2.
        truncation: see `latent_points`.
        latent: the latent points themselves, at both ends, float32 `[n, latent_dim]` each.

    Returns:
        uint8 `[frames, n, H, W, C]`; the first and the last frame are the images of `generate`.

    Raises:
        ConfigError: the labels change, and the network has no `flax.linen.Embed` to mix them in.
    """
    n = len(labels[0])
    indices = np.arange(n, dtype=np.int32)
    ends = (indices, *labels, *(latent or ()))
    t = np.linspace(0, 1, frames, dtype=np.float32).repeat(n)
    mixed = labels[0].ndim > 1 or not np.array_equal(*labels)
    program = partial(_morph_chunk, module, truncation, mixed, variables, keys)
    (images,) = in_chunks(program, CHUNK, t, *(np.concatenate([end] * frames) for end in ends))
    return images.reshape(frames, n, *images.shape[1:])


def in_chunks(
    program: Callable[..., Any],
    size: int,
    *inputs: np.ndarray,
    on_progress: ProgressFn | None = None,
) -> list[np.ndarray]:
    """What a program makes of many rows, `size` of them at a time; zeros fill the last chunk.

    Args:
        program: makes one array or several, of a row for each row of its inputs.
        size: rows at a time.
        inputs: arrays of equal length.
        on_progress: called after each chunk.

    Returns:
        each array that the program makes, for all rows.
    """
    n, outputs = len(inputs[0]), list[np.ndarray]()
    for start in range(0, max(1, n), size):
        rows = [array[start : start + size] for array in inputs]
        missing = size - len(rows[0])
        padded = [np.pad(r, [(0, missing)] + [(0, 0)] * (r.ndim - 1)) for r in rows]
        results = [np.asarray(each) for each in jax.tree.leaves(program(*padded))]
        outputs = outputs or [np.empty((n, *each.shape[1:]), each.dtype) for each in results]
        for output, result in zip(outputs, results, strict=True):
            output[start : start + size] = result[: size - missing]
        if on_progress is not None and n:
            on_progress(start + size - missing, n)
    return outputs


@partial(jax.jit, static_argnums=(0, 1))
def _generate_chunk(
    module: nn.Module,
    truncation: float | None,
    variables: Any,
    key: jax.Array,
    indices: jax.Array,
    labels: jax.Array,
    latent: jax.Array | None = None,
) -> jax.Array:
    """Images of latent points, by default those of the indices."""
    if latent is None:
        latent = latent_points(key, indices, module.latent_dim, truncation)
    return to_uint8(evaluate(module, variables, latent, labels, key, indices))


def evaluate(
    module: nn.Module,
    variables: Any,
    latent: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    indices: jax.Array,
) -> jax.Array:
    """A generator's images in evaluation mode, `[n, H, W, C]`, in [-1, 1].

    Of a network that draws noise all the same, each image is computed by itself, with keys that
    depend on `(key, index)` alone.
    """
    apply = partial(module.apply, variables, train=False)
    if not _draws_noise(apply, latent, labels):
        images: Any = apply(latent, labels)
        return jnp.asarray(images)

    def one(latent: jax.Array, label: jax.Array, key: jax.Array) -> jax.Array:
        rngs = dict(zip(("noise", "dropout", "params"), random.split(key, 3), strict=True))
        image: Any = apply(latent[None], label[None], rngs=rngs)
        return jnp.asarray(image[0])

    keys = jax.vmap(partial(random.fold_in, random.fold_in(key, 2)))(indices)
    return jax.vmap(one)(latent, labels, keys)


def _draws_noise(apply: Callable[..., Any], latent: jax.Array, labels: jax.Array) -> bool:
    try:
        jax.eval_shape(apply, latent, labels)
    except flax.errors.InvalidRngError:
        return True
    return False


@partial(jax.jit, static_argnums=(0, 1, 2))
def _morph_chunk(
    module: nn.Module,
    truncation: float | None,
    mixed: bool,
    variables: Any,
    keys: tuple[jax.Array, jax.Array],
    t: jax.Array,
    indices: jax.Array,
    starts: jax.Array,
    ends: jax.Array,
    *latent: jax.Array,
) -> jax.Array:
    """Images between latent points, by default between those of the indices."""
    start, end = latent or (
        latent_points(key, indices, module.latent_dim, truncation) for key in keys
    )
    between = slerp(start, end, t)
    if not mixed:
        return to_uint8(evaluate(module, variables, between, starts, keys[0], indices))

    def mix(embed: EmbedFn) -> jax.Array:
        return (1 - t)[:, None] * embed(starts) + t[:, None] * embed(ends)

    return to_uint8(apply_mixed(module, variables, between, starts, mix))


def apply_mixed(
    module: nn.Module,
    variables: Any,
    latent: jax.Array,
    labels: jax.Array,
    mix: Callable[[EmbedFn], jax.Array],
) -> jax.Array:
    """A generator's images, in evaluation mode, with mixtures in place of label embeddings.

    Args:
        module: the network.
        variables: its collections.
        latent: float32 `[n, latent_dim]`.
        labels: int32 `[n]`, or weights of all classes; for anything but embeddings.
        mix: called for each table of the network with the function that maps labels, int32 `[n]`,
            or weights of all classes, float32 `[n, classes]`, to embeddings; returns embeddings.

    Returns:
        floats in [-1, 1], `[n, H, W, C]`.

    Raises:
        ConfigError: the network has no `flax.linen.Embed`.
    """
    embeddings = 0

    def intercept(
        method: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        nonlocal embeddings
        if not isinstance(context.module, nn.Embed) or context.method_name != "__call__":
            return method(*args, **kwargs)
        embeddings += 1
        n_classes = context.module.num_embeddings

        def embed(labels: jax.Array) -> jax.Array:
            return method(labels) if labels.ndim == 1 else labels @ method(jnp.arange(n_classes))

        return mix(embed)

    with nn.intercept_methods(intercept):
        ids = labels if labels.ndim == 1 else labels.argmax(-1)
        images: Any = module.apply(variables, latent, ids, train=False)
    if not embeddings:
        raise ConfigError(
            f"{type(module).__name__} has no label embedding, so two labels cannot be mixed\n"
            "expected a flax.linen.Embed that is called with the labels\n"
            "Use one in the network, or keep the label and change the seed."
        )
    return images
