"""How the small classifiers of this package are trained, and how images go through one.

Which networks they are stands with what they are for: reference.py and cas.py.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax, random

from cgan_jax.checks import check_seed
from cgan_jax.errors import DataError
from cgan_jax.models.value_range import to_unit_range

CHUNK = 250  # images at a time: one compiled shape, as the last chunk is filled up


class Recipe(NamedTuple):
    """How a classifier is trained, with AdamW and a one-cycle learning rate.

    Attributes:
        epochs: passes over the images.
        batch_size: images a step; those that do not fill a batch wait for the next epoch's order.
        peak_lr: the largest learning rate.
        weight_decay: AdamW's.
        shift: each image is moved by at most so many pixels, anew each time.
        flip: half of the images are mirrored, anew each time.
    """

    epochs: int
    batch_size: int = 128
    peak_lr: float = 4e-3
    weight_decay: float = 1e-2
    shift: int = 0
    flip: bool = False


def fit(
    module: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    recipe: Recipe,
    *,
    seed: int = 0,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Any:
    """Train a classifier from scratch, by cross-entropy.

    Args:
        module: maps images in [-1, 1] and `train` to features and logits `[B, classes]`.
        images: uint8 `[N, H, W, C]`.
        labels: integers `[N]`.
        recipe: how.
        seed: in [0, 2**32); of weights, order and augmentation.
        on_step: told of the steps that are done and of all that there are.

    Returns:
        the variables after the last step: `params`, and `batch_stats` if the module has any.

    Raises:
        DataError: fewer images than a batch, or not a label for each.
        ConfigError: the seed is out of range.
    """
    if len(images) < recipe.batch_size or np.shape(labels) != (len(images),):
        raise DataError(
            f"{len(images)} images and labels {list(np.shape(labels))} cannot train a classifier\n"
            f"expected at least {recipe.batch_size} images, and one label for each\nGive more."
        )
    init_key, step_key = random.split(random.key(check_seed(seed)))
    example = to_unit_range(jnp.asarray(images[:2]))
    variables = jax.jit(partial(module.init, train=False))(init_key, example)
    params, stats = variables["params"], variables.get("batch_stats", {})
    per_epoch = len(images) // recipe.batch_size
    total = per_epoch * recipe.epochs
    schedule = optax.cosine_onecycle_schedule(total, recipe.peak_lr)
    optimizer = optax.adamw(schedule, weight_decay=recipe.weight_decay)
    state = params, stats, jax.jit(optimizer.init)(params)
    step = jax.jit(partial(_step, module, optimizer, recipe), donate_argnums=0)
    for epoch in range(recipe.epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(images))
        for i in range(per_epoch):
            rows = order[i * recipe.batch_size :][: recipe.batch_size]
            done = epoch * per_epoch + i
            state = step(state, images[rows], labels[rows], random.fold_in(step_key, done))
            on_step(done + 1, total)
    params, stats, _ = state
    return {"params": params} | ({"batch_stats": stats} if stats else {})


def _step(
    module: nn.Module,
    optimizer: optax.GradientTransformation,
    recipe: Recipe,
    state: tuple[Any, Any, Any],
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
) -> tuple[Any, Any, Any]:
    params, stats, opt_state = state
    images = to_unit_range(_augmented(images, recipe, key))

    def loss(params: Any) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": stats}
        output: Any = module.apply(variables, images, train=True, mutable=["batch_stats"])
        (_, logits), new = output
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), new.get("batch_stats", {})

    gradient, stats = jax.grad(loss, has_aux=True)(params)
    updates, opt_state = optimizer.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), stats, opt_state


def _augmented(images: jax.Array, recipe: Recipe, key: jax.Array) -> jax.Array:
    flip_key, shift_key = random.split(key)
    if recipe.flip:
        chosen = random.bernoulli(flip_key, shape=(len(images), 1, 1, 1))
        images = jnp.where(chosen, images[:, :, ::-1], images)
    if far := recipe.shift:
        padded = jnp.pad(images, ((0, 0), (far, far), (far, far), (0, 0)))
        corners = random.randint(shift_key, (len(images), 2), 0, 2 * far + 1)
        cut = lambda image, at: lax.dynamic_slice(image, (*at, 0), images.shape[1:])  # noqa: E731
        images = jax.vmap(cut)(padded, corners)
    return images


def apply_in_chunks(
    module: nn.Module,
    variables: Any,
    images: np.ndarray,
    on_chunk: Callable[[int], None] = lambda n: None,
) -> tuple[np.ndarray, np.ndarray]:
    """A classifier's features and predicted labels.

    Args:
        module: as for `fit`.
        variables: its weights.
        images: uint8 `[N, H, W, C]`.
        on_chunk: told of the number of images that are done after each chunk.

    Returns:
        features, float32 `[N, F]`, and labels, int32 `[N]`.

    Raises:
        DataError: the images are not uint8 `[N, H, W, C]`, or there are none.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise DataError(f"images must be uint8 [N, H, W, C], not {images.dtype} {images.shape}")
    features, labels = [], []
    for start in range(0, len(images), CHUNK):
        chunk = images[start : start + CHUNK]
        filled = np.pad(chunk, ((0, CHUNK - len(chunk)), (0, 0), (0, 0), (0, 0)))
        found, seen = _apply(module, variables, filled)
        features.append(np.asarray(found)[: len(chunk)])
        labels.append(np.asarray(seen)[: len(chunk)])
        on_chunk(len(chunk))
    return np.concatenate(features), np.concatenate(labels)


@partial(jax.jit, static_argnames="module")
def _apply(module: nn.Module, variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    output: Any = module.apply(variables, to_unit_range(images), train=False)
    features, logits = output
    return features, logits.argmax(-1).astype(jnp.int32)
