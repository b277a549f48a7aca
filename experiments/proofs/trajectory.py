"""A training step from outside: its noise, what it computed, how far two steps differ.

The library's half of the proof that it equals the PyTorch original; tests use it too. The other
half is in parity_runs.py: no PyTorch here.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
from jax import random

from cgan_jax.config import OptimizerConfig
from cgan_jax.training import steps
from cgan_jax.training.gan import GAN, GANState, NetState
from cgan_jax.training.steps import Batch, Losses, train_step

Array = npt.NDArray[Any]


class Noise(NamedTuple):
    """The randomness of one step.

    Attributes:
        latent: floats `[B, latent_dim]`.
        labels: of the fakes, int32 `[B]`.
        masks: bool `[B, width]`, true where dropout keeps: one per layer, for each of three passes
            through D, which are the fakes in G's step, and the real images and the fakes in D's.
    """

    latent: Any
    labels: Any
    masks: tuple[tuple[Any, ...], ...]


class Net(NamedTuple):
    """One network after a step: arrays by path such as `hidden_0/kernel`."""

    params: dict[str, Array]
    grads: dict[str, Array]  # which the step used
    mu: dict[str, Array]  # Adam's first moments
    nu: dict[str, Array]  # Adam's second moments
    batch_stats: dict[str, Array]  # BatchNorm's running statistics


class Snapshot(NamedTuple):
    """What a step computed. The fakes are floats `[B, H, W, C]` in [-1, 1]."""

    d_loss: float
    g_loss: float
    fakes: Array
    gen: Net
    disc: Net


@partial(jax.jit, static_argnames="gan")
def make_state(gan: GAN, gen: Any, disc: Any) -> GANState:
    """The state before the first step, from both networks' linen variables."""

    def net(variables: Any, optimizer: optax.GradientTransformation) -> NetState:
        return NetState(
            params=variables["params"],
            batch_stats=variables.get("batch_stats", {}),
            opt_state=optimizer.init(variables["params"]),
        )

    return GANState(
        step=jnp.zeros((), jnp.int32),
        gen=net(gen, gan.gen_optimizer),
        disc=net(disc, gan.disc_optimizer),
        average=gen if gan.average else None,
    )


def with_arrays(state: GANState, arrays: Snapshot) -> GANState:
    """The state with a snapshot's parameters, statistics and Adam moments instead of its own."""

    def net(old: NetState, new: Net) -> NetState:
        adam, *rest = old.opt_state
        adam = adam._replace(mu=unflatten(old.params, new.mu), nu=unflatten(old.params, new.nu))
        return replace(
            old,
            params=unflatten(old.params, new.params),
            batch_stats=unflatten(old.batch_stats, new.batch_stats),
            opt_state=(adam, *rest),
        )

    return replace(state, gen=net(state.gen, arrays.gen), disc=net(state.disc, arrays.disc))


@partial(jax.jit, static_argnames=("gan", "n"))
def draw_noise(gan: GAN, key: jax.Array, n: int) -> Noise:
    """The noise that `train_step` draws from this key for a batch of n, drawn once more."""
    # The keys of other recipes' draws come after these four.
    latent_key, label_key, gen_dropout_key, disc_dropout_key = random.split(key, 4)
    latent, labels = steps.generator_inputs(gan, latent_key, label_key, n)
    both = _dropout_masks(gan, disc_dropout_key, 2 * n)
    halves = tuple(mask[:n] for mask in both), tuple(mask[n:] for mask in both)
    return Noise(latent, labels, (_dropout_masks(gan, gen_dropout_key, n), *halves))


def replay_step(gan: GAN, state: GANState, batch: Batch, noise: Noise) -> tuple[GANState, Losses]:
    """The library's `train_step` with noise from outside. Jit it with `gan` static.

    What `steps.generator_inputs` and linen's Dropout draw is replaced while the step is traced. A
    dropout layer that is switched off takes no mask.

    Raises:
        AssertionError: the step draws noise of other shapes, or has other dropout layers.
    """
    for_g, real, fake = noise.masks
    masks = deque([*for_g, *(jnp.concatenate(pair) for pair in zip(real, fake, strict=True))])

    def drop(next_function: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if not isinstance(context.module, nn.Dropout) or context.module.deterministic:
            return next_function(*args, **kwargs)
        assert masks, "more dropout than masks"
        mask, (x,) = masks.popleft(), args
        assert mask.shape == x.shape, f"a mask of {mask.shape} for {x.shape}"
        return jnp.where(mask, x / (1 - context.module.rate), 0)

    def inputs(gan: GAN, latent_key: Any, label_key: Any, n: int) -> tuple[jax.Array, jax.Array]:
        assert noise.latent.shape == (n, gan.generator.latent_dim)
        assert noise.labels.shape == (n,)
        return jnp.asarray(noise.latent), jnp.asarray(noise.labels)

    with mock.patch.object(steps, "generator_inputs", inputs), nn.intercept_methods(drop):
        new, losses = train_step(gan, state, batch, random.key(0))
    assert not masks, "less dropout than masks"
    return new, losses


def snapshot(
    gan: GAN,
    before: GANState,
    after: GANState,
    losses: Losses,
    noise: Noise,
    b1: float = OptimizerConfig.b1,
) -> Snapshot:
    """What a step of the library from `before` to `after` computed.

    The gradients are read from Adam's first moments, m' = b1 m + (1 - b1) g, so that they are
    those that the step used. The fakes are generated once more, from the state before the step.
    """

    def net(old: NetState, new: NetState) -> Net:
        mu_before, mu = flatten(old.opt_state[0].mu), flatten(new.opt_state[0].mu)
        return Net(
            params=flatten(new.params),
            grads={path: (mu[path] - b1 * mu_before[path]) / (1 - b1) for path in mu},
            mu=mu,
            nu=flatten(new.opt_state[0].nu),
            batch_stats=flatten(new.batch_stats),
        )

    return Snapshot(
        float(losses.d_loss),
        float(losses.g_loss),
        np.asarray(_fakes(gan, before.gen.variables, noise.latent, noise.labels)),
        net(before.gen, after.gen),
        net(before.disc, after.disc),
    )


IDLE = "biases before BatchNorm"
NAMES = {
    "params": "parameters",
    "grads": "gradients",
    "mu": "first moments",
    "nu": "second moments",
}
RUNNING = {"mean": "running means", "var": "running variances"}


def differences(ours: Snapshot, theirs: Snapshot) -> dict[str, float]:
    """The largest absolute difference of each kind of number; NaN counts as infinite.

    The biases that feed a BatchNorm have rows of their own. Their true gradient is zero, since
    BatchNorm subtracts the batch's mean and the bias with it; what is computed for them is
    rounding. `gradients, relative` divides each array's largest difference by that array's largest
    value.
    """
    gaps = {
        "D loss": largest_gap(ours.d_loss, theirs.d_loss),
        "G loss": largest_gap(ours.g_loss, theirs.g_loss),
        "fakes": largest_gap(ours.fakes, theirs.fakes),
    }
    for one, other in ((ours.gen, theirs.gen), (ours.disc, theirs.disc)):
        for kind in Net._fields:
            arrays, other_arrays = getattr(one, kind), getattr(other, kind)
            assert arrays.keys() == other_arrays.keys()
            for path, array in arrays.items():
                name = NAMES.get(kind) or RUNNING[path.split("/")[-1]]
                name += f", {IDLE}" * feeds_batch_norm(path, one.params)
                here = {name: largest_gap(array, other_arrays[path])}
                if name == "gradients":
                    here[f"{name}, relative"] = here[name] / np.abs(other_arrays[path]).max()
                gaps |= {name: max(value, gaps.get(name, 0.0)) for name, value in here.items()}
    return gaps


def largest_gap(one: Any, other: Any) -> float:
    """The largest absolute difference of two arrays or numbers; NaN counts as infinite."""
    largest = float(np.max(np.abs(np.asarray(one) - np.asarray(other)), initial=0))
    return largest if np.isfinite(largest) else float("inf")


def feeds_batch_norm(path: str, params: Mapping[str, Any]) -> bool:
    """Whether a path such as `hidden_1/bias` is a bias that a BatchNorm subtracts again."""
    layer, _, leaf = path.partition("/")
    norm = layer.replace("hidden_", "batch_norm_")
    return layer != norm and leaf == "bias" and f"{norm}/scale" in params


def shift_idle(params: Any, by: float) -> Any:
    """Parameters with `by` added to each bias that feeds a BatchNorm."""
    flat = flatten(params)
    shifted = {path: leaf + by * feeds_batch_norm(path, flat) for path, leaf in flat.items()}
    return unflatten(params, shifted)


def flatten(tree: Any) -> dict[str, Array]:
    """A tree's arrays by path, as NumPy's."""
    leaves, _ = jax.tree.flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in leaves
    }


def unflatten(like: Any, arrays: Mapping[str, Array]) -> Any:
    """The tree of the same structure as `like` with these arrays: the inverse of `flatten`."""
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[path] for path in flatten(like)])


def _dropout_masks(gan: GAN, key: jax.Array, n: int) -> tuple[jax.Array, ...]:
    """What D's dropout layers keep of n rows under this key, which parameters do not change."""
    masks = []

    def record(next_function: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if not isinstance(context.module, nn.Dropout):
            return next_function(*args, **kwargs)
        output = next_function(jnp.ones_like(args[0]), **kwargs)
        masks.append(output != 0)
        return output

    g = gan.generator
    images = jnp.zeros((n, g.img_size, g.img_size, g.channels))
    rngs = {"params": random.key(0), "dropout": key}
    with nn.intercept_methods(record):
        gan.discriminator.init(rngs, images, jnp.zeros(n, jnp.int32), train=True)
    return tuple(masks)


@partial(jax.jit, static_argnames="gan")
def _fakes(gan: GAN, variables: Any, latent: Any, labels: Any) -> jax.Array:
    images, _ = gan.generator.apply(variables, latent, labels, train=True, mutable=["batch_stats"])
    return images
