"""A training step seen from outside: its noise, what it left behind, how far two steps differ.

The library's half of the proof that it equals the PyTorch original; tests use it too. The other
half is in parity_runs.py: no PyTorch here.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import random

from cgan_jax.config import OptimizerConfig
from cgan_jax.data import Dataset
from cgan_jax.training import steps
from cgan_jax.training.gan import GAN, GANState, NetState
from cgan_jax.training.steps import Batch, Losses, train_step

Array = npt.NDArray[Any]


class Noise(NamedTuple):
    """The randomness of one step.

    Attributes:
        latent: floats `[B, latent_dim]`.
        labels: of the fakes, int32 `[B]`.
        masks: bool `[B, width]`, true where dropout keeps: one a layer, for each of three passes
            through D, which are the fakes in G's step, and the real images and the fakes in D's.
    """

    latent: Any
    labels: Any
    masks: tuple[tuple[Any, ...], ...]


class Net(NamedTuple):
    """One network after a step, arrays by path such as `hidden_0/kernel`.

    Attributes:
        params: parameters.
        grads: the gradient that made the step.
        mu: Adam's first moments.
        nu: Adam's second moments.
        batch_stats: BatchNorm's running statistics.
    """

    params: dict[str, Array]
    grads: dict[str, Array]
    mu: dict[str, Array]
    nu: dict[str, Array]
    batch_stats: dict[str, Array]


class Snapshot(NamedTuple):
    """What a step computed. The fakes are floats `[B, H, W, C]` in [-1, 1]."""

    d_loss: float
    g_loss: float
    fakes: Array
    gen: Net
    disc: Net


def make_state(gan: GAN, gen: Any, disc: Any) -> GANState:
    """The state before the first step, from both networks' linen variables."""

    @jax.jit
    def make(gen: Any, disc: Any) -> GANState:
        return GANState(
            step=jnp.zeros((), jnp.int32),
            gen=NetState(gen["params"], gen["batch_stats"], gan.gen_optimizer.init(gen["params"])),
            disc=NetState(disc["params"], {}, gan.disc_optimizer.init(disc["params"])),
        )

    return make(gen, disc)


@partial(jax.jit, static_argnames=("gan", "n"))
def draw_noise(gan: GAN, disc_params: Any, key: jax.Array, n: int) -> Noise:
    """The noise that `train_step` draws from this key for a batch of n, drawn once more."""
    latent_key, label_key, gen_dropout_key, disc_dropout_key = random.split(key, 4)
    both = _dropout_masks(gan, disc_params, disc_dropout_key, 2 * n)
    return Noise(
        random.normal(latent_key, (n, gan.generator.latent_dim)),
        random.randint(label_key, (n,), 0, gan.generator.n_classes),
        (
            _dropout_masks(gan, disc_params, gen_dropout_key, n),
            tuple(mask[:n] for mask in both),
            tuple(mask[n:] for mask in both),
        ),
    )


def replay_step(gan: GAN, state: GANState, batch: Batch, noise: Noise) -> tuple[GANState, Losses]:
    """The library's `train_step` with noise from outside. Jit it with `gan` static.

    What steps.py draws and what linen's Dropout draws is replaced while it is traced. A dropout
    layer that is switched off takes no mask.

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

    def normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        assert shape == noise.latent.shape
        return jnp.asarray(noise.latent)

    def randint(key: jax.Array, shape: tuple[int, ...], low: int, high: int) -> jax.Array:
        assert (shape, low, high) == (noise.labels.shape, 0, gan.generator.n_classes)
        return jnp.asarray(noise.labels)

    given = SimpleNamespace(split=random.split, normal=normal, randint=randint)
    with mock.patch.object(steps, "random", given), nn.intercept_methods(drop):
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
    those that the step used. The fakes are made once more, from the parameters before the step.
    """
    fakes = _fakes(gan, before.gen.params, before.gen.batch_stats, noise.latent, noise.labels)

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
        np.asarray(fakes),
        net(before.gen, after.gen),
        net(before.disc, after.disc),
    )


def differences(ours: Snapshot, theirs: Snapshot) -> dict[str, float]:
    """The largest absolute difference of each kind of number; NaN counts as infinite.

    The biases that feed a BatchNorm have rows of their own. Their true gradient is zero, since
    BatchNorm subtracts the batch's mean and the bias with it; what is computed for them is
    rounding. So has `gradients, relative`, which divides each array's largest difference by that
    array's largest value.
    """
    found = {
        "D loss": _gap(ours.d_loss, theirs.d_loss),
        "G loss": _gap(ours.g_loss, theirs.g_loss),
        "fakes": _gap(ours.fakes, theirs.fakes),
        "gradients, relative": 0.0,
    }

    def note(what: str, gap: float) -> None:
        found[what] = max(gap, found.get(what, 0.0))

    for one, other in ((ours.gen, theirs.gen), (ours.disc, theirs.disc)):
        for what in ("params", "grads", "mu", "nu", "batch_stats"):
            one_arrays, other_arrays = getattr(one, what), getattr(other, what)
            assert one_arrays.keys() == other_arrays.keys()
            for path, array in one_arrays.items():
                gap = _gap(array, other_arrays[path])
                if feeds_batch_norm(path, one.params):
                    note(f"{NAMES[what]}, {IDLE}", gap)
                    continue
                note(RUNNING[path.split("/")[-1]] if what == "batch_stats" else NAMES[what], gap)
                if what == "grads":
                    note("gradients, relative", gap / np.abs(other_arrays[path]).max())
    return found


IDLE = "biases before BatchNorm"
NAMES = {
    "params": "parameters",
    "grads": "gradients",
    "mu": "first moments",
    "nu": "second moments",
    "batch_stats": "running statistics",
}
RUNNING = {"mean": "running means", "var": "running variances"}


def feeds_batch_norm(path: str, params: Mapping[str, Any]) -> bool:
    """Whether a path such as `hidden_1/bias` is a bias that a BatchNorm takes away again."""
    layer, _, leaf = path.partition("/")
    norm = layer.replace("hidden_", "batch_norm_")
    return layer != norm and leaf == "bias" and f"{norm}/scale" in params


def shift_idle(params: Any, by: float) -> Any:
    """Parameters with `by` added to each bias that feeds a BatchNorm."""
    flat = flatten(params)
    leaves = [leaf + by * feeds_batch_norm(path, flat) for path, leaf in flat.items()]
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def flatten(tree: Any) -> dict[str, Array]:
    """A tree's arrays by path, as NumPy's."""
    leaves, _ = jax.tree.flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in leaves
    }


def clock_batches(
    dataset: Dataset, order: jax.Array, first_step: int, n_steps: int, batch_size: int
) -> Iterator[tuple[int, Batch]]:
    """The batches that a run shows in these steps: `(step, batch)`."""
    n_images = len(dataset)
    per_epoch = -(-n_images // batch_size)
    orders: dict[int, Array] = {}
    for step in range(first_step, first_step + n_steps):
        epoch, i = divmod(step, per_epoch)
        if epoch not in orders:
            orders[epoch] = np.asarray(random.permutation(random.fold_in(order, epoch), n_images))
        rows = orders[epoch][i * batch_size :][:batch_size]
        yield step, Batch(jnp.asarray(dataset.images[rows]), jnp.asarray(dataset.labels[rows]))


def _gap(one: Any, other: Any) -> float:
    gap = float(np.max(np.abs(np.asarray(one) - np.asarray(other)), initial=0))
    return gap if np.isfinite(gap) else float("inf")


def _dropout_masks(gan: GAN, params: Any, key: jax.Array, n: int) -> tuple[jax.Array, ...]:
    """What D's dropout layers keep of n rows under this key."""
    masks = []

    def record(next_function: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if not isinstance(context.module, nn.Dropout):
            return next_function(*args, **kwargs)
        output = next_function(jnp.ones_like(args[0]), **kwargs)
        masks.append(output != 0)
        return output

    g = gan.generator
    images = jnp.zeros((n, g.img_size, g.img_size, g.channels))
    labels = jnp.zeros(n, jnp.int32)
    with nn.intercept_methods(record):
        gan.discriminator.apply(
            {"params": params}, images, labels, train=True, rngs={"dropout": key}
        )
    return tuple(masks)


@partial(jax.jit, static_argnames="gan")
def _fakes(gan: GAN, params: Any, batch_stats: Any, latent: Any, labels: Any) -> jax.Array:
    images, _ = gan.generator.apply(
        {"params": params, "batch_stats": batch_stats},
        latent,
        labels,
        train=True,
        mutable=["batch_stats"],
    )
    return images
