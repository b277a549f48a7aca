"""Training and applying small image classifiers. The networks are in reference.py and cas.py."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState
from jax import lax, random

from cgan_jax.checks import check_seed
from cgan_jax.errors import DataError
from cgan_jax.metrics.inputs import check_images, check_labels, chunks
from cgan_jax.models.value_range import to_unit_range

CHUNK = 250  # images at a time; the last chunk is padded, so that one program is compiled


class Recipe(NamedTuple):
    """How a classifier is trained, with AdamW and a one-cycle learning rate.

    Attributes:
        epochs: passes over the images.
        batch_size: images per step; an epoch drops those that do not fill a batch.
        peak_lr: the largest learning rate.
        weight_decay: AdamW's.
        shift: the most pixels that each image of a batch is moved by, at random.
        flip: whether each image of a batch is mirrored with probability 1/2.
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
    rows: np.ndarray | None = None,
    seed: int = 0,
    on_step: Callable[[int, int], None] = lambda done, total: None,
    stop_after: Callable[[Any], bool] = lambda variables: False,
) -> Any:
    """Train a classifier from scratch, by cross-entropy.

    Args:
        module: maps images in [-1, 1] and `train` to features and logits `[B, classes]`.
        images: uint8 `[N, H, W, C]`.
        labels: integers `[N]`.
        recipe: how to train.
        rows: which of the images, integers `[n]`; by default all.
        seed: in [0, 2**32); of weights, order and augmentation.
        on_step: called after each step with the number of steps done and their total.
        stop_after: called after each epoch with the variables, which it may not keep but as a copy;
            True ends the training.

    Returns:
        the variables after the last step: `params`, and `batch_stats` if the module has them.

    Raises:
        DataError: images of another shape or dtype, fewer than a batch, or not one label for each.
        ConfigError: the seed is out of range.
    """
    check_images(images)
    check_labels(labels, len(images))
    rows = np.arange(len(images)) if rows is None else rows
    if len(rows) < recipe.batch_size:
        raise DataError(
            f"{len(rows)} images cannot train a classifier\n"
            f"expected at least a batch of {recipe.batch_size}\nGive more."
        )
    init_key, step_key = random.split(random.key(check_seed(seed)))
    example = to_unit_range(jnp.asarray(images[:2]))
    variables = jax.jit(partial(module.init, train=False))(init_key, example)
    per_epoch = len(rows) // recipe.batch_size
    total = per_epoch * recipe.epochs
    state = _fresh_state(module, variables, recipe, total)
    step = jax.jit(partial(_step, recipe, step_key), donate_argnums=0)
    for epoch in range(recipe.epochs):
        order = np.random.default_rng([seed, epoch]).permutation(rows)
        for i in range(per_epoch):
            batch = order[i * recipe.batch_size :][: recipe.batch_size]
            state = step(state, images[batch], labels[batch])
            on_step(epoch * per_epoch + i + 1, total)
        if stop_after({name: getattr(state, name) for name in variables}):
            break
    return {name: getattr(state, name) for name in variables}


class _State(TrainState):
    batch_stats: Any


def _fresh_state(module: nn.Module, variables: Any, recipe: Recipe, n_steps: int) -> _State:
    schedule = optax.cosine_onecycle_schedule(n_steps, recipe.peak_lr)
    return _State.create(
        apply_fn=module.apply,
        params=variables["params"],
        tx=optax.adamw(schedule, weight_decay=recipe.weight_decay),
        batch_stats=variables.get("batch_stats", {}),
    )


def _step(
    recipe: Recipe, key: jax.Array, state: _State, images: jax.Array, labels: jax.Array
) -> _State:
    images = to_unit_range(_augmented(images, recipe, random.fold_in(key, state.step)))

    def loss(params: Any) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        output = state.apply_fn(variables, images, train=True, mutable=["batch_stats"])
        (_, logits), updated = output
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), updated.get("batch_stats", {})

    gradient, stats = jax.grad(loss, has_aux=True)(state.params)
    return state.apply_gradients(grads=gradient, batch_stats=stats)


def _augmented(images: jax.Array, recipe: Recipe, key: jax.Array) -> jax.Array:
    flip_key, shift_key = random.split(key)
    if recipe.flip:
        mirrored = random.bernoulli(flip_key, shape=(len(images), 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    if shift := recipe.shift:
        padded = jnp.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="edge")
        corners = random.randint(shift_key, (len(images), 2), 0, 2 * shift + 1)
        crop = lambda image, at: lax.dynamic_slice(image, (*at, 0), images.shape[1:])  # noqa: E731
        images = jax.vmap(crop)(padded, corners)
    return images


def apply_in_chunks(
    module: nn.Module,
    variables: Any,
    images: np.ndarray,
    on_chunk: Callable[[int], None] = lambda n: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute a classifier's features and predictions.

    Args:
        module: as for `fit`.
        variables: its weights.
        images: uint8 `[N, H, W, C]`.
        on_chunk: called after each chunk with its number of images.

    Returns:
        features, float32 `[N, F]`, and predicted labels, int32 `[N]`.

    Raises:
        DataError: the images are not uint8 `[N, H, W, C]`, or empty.
    """
    check_images(images)
    outputs = []
    for rows in chunks(len(images), CHUNK):
        n = rows.stop - rows.start
        padded = np.pad(images[rows], ((0, CHUNK - n), (0, 0), (0, 0), (0, 0)))
        outputs.append([np.asarray(each)[:n] for each in _apply(module, variables, padded)])
        on_chunk(n)
    features, predictions = map(np.concatenate, zip(*outputs, strict=True))
    return features, predictions


@partial(jax.jit, static_argnames="module")
def _apply(module: nn.Module, variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    output: Any = module.apply(variables, to_unit_range(images), train=False)
    features, logits = output
    return features, logits.argmax(-1).astype(jnp.int32)
