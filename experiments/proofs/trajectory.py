"""A training step from outside: its noise, what it computed, how far two steps differ.

The library's half of the proof that it equals the PyTorch original; tests use it too. The other
half is in parity_runs.py: no PyTorch here.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax import random

from cgan_jax.config import OptimizerConfig
from cgan_jax.data.sources import Batch
from cgan_jax.training.gan import GAN, GANState, NetState, image_shape
from cgan_jax.training.step import Losses, sample_inputs, step_keys
from experiments.proofs.parity import IDLE

Trees = Mapping[str, Any]  # one for each network, `gen` and `disc`
RUNNING = {"mean": "running means", "var": "running variances"}


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


class Step(NamedTuple):
    """What a step computed: D's and G's loss, fakes `[B, H, W, C]`, gradients, state after it."""

    losses: tuple[Any, Any]
    fakes: Any
    grads: Trees
    state: GANState


@partial(jax.jit, static_argnames="gan")
def draw_noise(gan: GAN, batch: Batch, key: jax.Array) -> Noise:
    """The noise that `train_step` draws from this key for a batch, drawn once more."""
    keys, n = step_keys(gan, key), len(batch.labels)
    latent, labels = sample_inputs(gan, batch, keys)
    both = _dropout_masks(gan, keys.disc.dropout, 2 * n)
    halves = tuple(mask[:n] for mask in both), tuple(mask[n:] for mask in both)
    return Noise(latent, labels, (_dropout_masks(gan, keys.gen.dropout, n), *halves))


def observe(
    gan: GAN,
    before: GANState,
    after: GANState,
    losses: Losses,
    noise: Noise,
    b1: float = OptimizerConfig.b1,
) -> Step:
    """What a step of the library from `before` to `after` computed.

    The gradients are read from Adam's first moments, m' = b1 m + (1 - b1) g, so that they are
    those that the step used. The fakes are generated once more, from the state before the step.
    """
    moments = [
        {"gen": state.gen.opt_state[0].mu, "disc": state.disc.opt_state[0].mu}
        for state in (before, after)
    ]
    grads = jax.tree.map(lambda old, new: (new - b1 * old) / (1 - b1), *moments)
    fakes = _fakes(gan, before.gen.variables, noise.latent, noise.labels)
    return Step(losses, fakes, grads, after)


def with_arrays(
    state: GANState, params: Trees, batch_stats: Trees, mu: Trees, nu: Trees
) -> GANState:
    """The state with other parameters, BatchNorm statistics and Adam moments."""

    collections = {"params": params, "batch_stats": batch_stats}

    def net(name: str) -> NetState:
        before: NetState = getattr(state, name)
        adam, *rest = before.opt_state
        adam = adam._replace(mu=mu[name], nu=nu[name])
        variables = {kind: collections[kind][name] for kind in before.variables}
        return NetState(variables, (adam, *rest))

    return replace(state, gen=net("gen"), disc=net("disc"))


def differences(ours: Step, theirs: Step) -> dict[str, float]:
    """The largest absolute difference of each kind of number; NaN counts as infinite.

    The biases that feed a BatchNorm have rows of their own. Their true gradient is zero, since
    BatchNorm subtracts the batch's mean and the bias with it; what is computed for them is
    rounding. `gradients, relative` divides each array's largest difference by that array's largest
    value.
    """
    arrays, others = _arrays_by_row(ours), _arrays_by_row(theirs)
    assert arrays.keys() == others.keys()
    gaps = defaultdict[str, float](float)
    for (row, path), array in arrays.items():
        other = others[row, path]
        gap = largest_gap(array, other)
        gaps[row] = max(gaps[row], gap)
        if row == "gradients":
            relative = gap / np.abs(other).max()
            gaps["gradients, relative"] = max(gaps["gradients, relative"], relative)
    return dict(gaps)


def largest_gap(one: Any, other: Any) -> float:
    """The largest absolute difference of two arrays or numbers; NaN counts as infinite."""
    largest = float(np.max(np.abs(np.asarray(one) - np.asarray(other)), initial=0))
    return largest if np.isfinite(largest) else float("inf")


def feeds_batch_norm(path: str, params: Mapping[str, Any]) -> bool:
    """Whether a path such as `gen/hidden_1/bias` is a bias that a BatchNorm subtracts again."""
    layer, _, leaf = path.rpartition("/")
    norm = layer.replace("hidden_", "batch_norm_")
    return layer != norm and leaf == "bias" and f"{norm}/scale" in params


def parameters(state: GANState) -> dict[str, Any]:
    """Both networks' parameters by path."""
    return flatten_dict({"gen": state.gen.params, "disc": state.disc.params}, sep="/")


def _arrays_by_row(step: Step) -> dict[tuple[str, str], Any]:
    """All numbers of a step, by their row in the table and their path."""
    arrays: dict[tuple[str, str], Any] = {
        ("D loss", ""): step.losses[0],
        ("G loss", ""): step.losses[1],
        ("fakes", ""): step.fakes,
    }
    params, nets = parameters(step.state), {"gen": step.state.gen, "disc": step.state.disc}
    adams = {name: net.opt_state[0] for name, net in nets.items()}
    for row, trees in {
        "gradients": step.grads,
        "parameters": {name: net.params for name, net in nets.items()},
        "first moments": {name: adam.mu for name, adam in adams.items()},
        "second moments": {name: adam.nu for name, adam in adams.items()},
    }.items():
        for path, array in flatten_dict(trees, sep="/").items():
            arrays[row + f", {IDLE}" * feeds_batch_norm(path, params), path] = array
    statistics = {name: net.variables.get("batch_stats", {}) for name, net in nets.items()}
    running = flatten_dict(statistics, sep="/")
    return arrays | {(RUNNING[path.split("/")[-1]], path): running[path] for path in running}


def _dropout_masks(gan: GAN, key: jax.Array, n: int) -> tuple[jax.Array, ...]:
    """What D's dropout layers keep of n rows under this key, which parameters do not change."""
    masks = []

    def record(next_function: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if not isinstance(context.module, nn.Dropout):
            return next_function(*args, **kwargs)
        output = next_function(jnp.ones_like(args[0]), **kwargs)
        masks.append(output != 0)
        return output

    images = jnp.zeros((n, *image_shape(gan.generator)))
    rngs = {"params": random.key(0), "dropout": key}
    with nn.intercept_methods(record):
        gan.discriminator.init(rngs, images, jnp.zeros(n, jnp.int32), train=True)
    return tuple(masks)


@partial(jax.jit, static_argnames="gan")
def _fakes(gan: GAN, variables: Any, latent: Any, labels: Any) -> jax.Array:
    images, _ = gan.generator.apply(variables, latent, labels, train=True, mutable=["batch_stats"])
    return images
