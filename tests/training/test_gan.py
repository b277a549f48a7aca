"""The state: every collection of the modules, optimizers' keys, and what a step of one's own adds.

All are trained, saved, restored, and go on with the same bits.
"""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random

from cgan_jax import Checkpoints, Losses, NetState, next_state, train, update_networks
from cgan_jax.errors import ConfigError
from cgan_jax.sampling.latent_space import generate
from cgan_jax.training.averaging import RampedAverage
from cgan_jax.training.callbacks import Callback
from cgan_jax.training.gan import GAN, GANState
from tests.helpers import StopAfter


def counter(module, name):
    """Counts a module's calls in training, in a collection of this name."""
    calls = module.variable(name, "calls", lambda: jnp.zeros((), jnp.int32))
    if not module.is_initializing():
        calls.value += 1


class Generator(nn.Module):
    """With two collections beside its parameters; draws noise in training."""

    n_classes: int = 3
    latent_dim: int = 5
    img_size: int = 4
    channels: int = 1

    @nn.compact
    def __call__(self, latent, labels, *, train):
        mean = self.variable("batch_stats", "mean", jnp.zeros, (16,))
        x = nn.Dense(16)(jnp.concatenate([latent, jax.nn.one_hot(labels, 3)], axis=-1))
        if train:
            counter(self, "counters")
            x += 0.1 * random.normal(self.make_rng("noise"), x.shape)
            if not self.is_initializing():
                mean.value = 0.9 * mean.value + 0.1 * x.mean(0)
        return jnp.tanh(x - mean.value).reshape(-1, 4, 4, 1)


class Discriminator(nn.Module):
    """With a collection of its own, which has no name that Flax knows."""

    @nn.compact
    def __call__(self, images, labels, *, train):
        counter(self, "clicks")
        flat = images.reshape(len(images), -1)
        return nn.Dense(1)(jnp.concatenate([flat, jax.nn.one_hot(labels, 3)], axis=-1))[:, 0]


def noisy_sgd(seed):
    """Gradients with noise, whose key is in the optimizer's state."""
    return optax.chain(optax.add_noise(eta=0.1, gamma=0.5, key=random.key(seed)), optax.sgd(0.05))


def first_extra():
    return {"score": jnp.zeros(()), "images": jnp.zeros((), jnp.int32)}


def step(gan, state, batch, key):
    """`train_step` that carries a running mean of D's scores of real images."""
    gen, disc = update_networks(gan, state, batch, key)
    score = 0.9 * state.extra["score"] + 0.1 * disc.real.scores.mean()
    extra = {"score": score, "images": state.extra["images"] + len(batch.labels)}
    return next_state(gan, state, gen.net, disc.net, extra), Losses(disc.loss, gen.loss)


@pytest.fixture(scope="module")
def gan():
    return GAN(
        Generator(),
        Discriminator(),
        noisy_sgd(1),
        noisy_sgd(2),
        average=RampedAverage(4, half_life=20.0, ramp=None),
        init_extra=first_extra,
    )


@pytest.fixture(scope="module")
def like(gan):
    """The state's shapes and dtypes."""
    return jax.eval_shape(gan.init, random.key(0))


@pytest.fixture(scope="module")
def whole(gan, tiny_config, tiny_dataset):
    """The state after 18 steps."""
    return train(gan, tiny_config, tiny_dataset, step=step)


def leaves(tree):
    """A tree's leaves, by path."""
    paths = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in paths}


def numbers(leaf):
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(random.key_data(leaf) if is_key else leaf)


def assert_trees_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    others = leaves(other)
    for path, leaf in leaves(one).items():
        np.testing.assert_array_equal(numbers(leaf), numbers(others[path]), err_msg=path)


def noise_keys(state):
    return [net.opt_state[0].rng_key for net in (state.gen, state.disc)]


def test_every_collection_is_trained(gan, like, whole):
    assert list(whole.gen.variables) == ["params", "batch_stats", "counters"]
    assert list(whole.disc.variables) == ["params", "clicks"]
    assert whole.gen.statistics == ["batch_stats", "counters"]
    assert whole.gen.variables["counters"]["calls"] == 18
    # D's pass in the generator's update leaves no trace.
    assert whole.disc.variables["clicks"]["calls"] == 18
    assert np.abs(whole.gen.variables["batch_stats"]["mean"]).max() > 1e-3
    assert jax.tree.map(jnp.shape, whole) == jax.tree.map(jnp.shape, like)


def test_what_is_sampled_has_every_collection(gan, whole):
    """In the average too, of whatever type it is; and no noise is needed to sample."""
    assert whole.sampling_variables.keys() == whole.gen.variables.keys()
    assert whole.average["counters"]["calls"].dtype == jnp.int32
    images = generate(gan.generator, whole.sampling_variables, np.arange(3), random.key(1))
    assert images.shape == (3, 4, 4, 1)
    assert (
        images != generate(gan.generator, whole.gen.variables, np.arange(3), random.key(1))
    ).any()


def test_keys_in_a_state_are_keys(gan, whole):
    """They go on from step to step, and are not taken for numbers that might be NaN."""
    fresh = jax.jit(gan.init)(random.key(0))
    for before, after in zip(noise_keys(fresh), noise_keys(whole), strict=True):
        assert jnp.issubdtype(after.dtype, jax.dtypes.prng_key)
        assert (random.key_data(before) != random.key_data(after)).any()


def test_what_a_step_of_ones_own_carries(whole):
    assert whole.extra["images"] == 3 * 22
    assert whole.extra["score"] != 0


@pytest.mark.parametrize("stops", [(8,), (1, 4, 6)])
def test_all_of_it_is_saved_and_restored(
    stops, gan, like, whole, tiny_config, tiny_dataset, tmp_path
):
    """A run that was stopped ends with the same bits, keys among them."""
    for n in (*stops, 10**9):
        with Checkpoints(tmp_path) as checkpoints:
            stop = StopAfter(n)
            state = train(
                gan, tiny_config, tiny_dataset, step=step, callbacks=[stop], checkpoints=checkpoints
            )
            assert (stop.left <= 0) == (n < 18)
            restored = checkpoints.restore(like)
        assert_trees_equal(jax.tree.map(jnp.asarray, restored), state)
        assert [key.dtype for key in noise_keys(restored)] == [random.key(0).dtype] * 2
    assert_trees_equal(state, whole)


def test_a_callback_may_return_a_state_with_keys(gan, whole, tiny_config, tiny_dataset):
    same = Callback()
    same.on_chunk_end = lambda chunk: chunk.state
    state = train(gan, tiny_config, tiny_dataset, step=step, callbacks=[same])
    assert_trees_equal(state, whole)


# As a tree


def test_a_network_as_a_tree_has_a_branch_for_each_collection():
    """In an order that does not depend on how the collections were given; as before."""
    branches = {"params": {"w": 1.0}, "batch_stats": {"m": 2.0}, "a": {"n": 3.0}}
    for names in (("params", "batch_stats", "a"), ("a", "batch_stats", "params")):
        net = NetState({name: branches[name] for name in names}, (4.0,))
        assert list(leaves(net)) == ["params.w", "a.n", "batch_stats.m", "opt_state.0"]
        doubled = jax.tree.map(lambda leaf: 2 * leaf, net)
        assert isinstance(doubled, NetState)
        assert doubled.variables == {"params": {"w": 2}, "a": {"n": 6}, "batch_stats": {"m": 4}}
        assert doubled.opt_state == (8.0,)


def test_parts_of_a_network_are_replaced():
    net = NetState({"params": 1, "batch_stats": 2}, 3)
    assert (net.params, net.statistics) == (1, ["batch_stats"])
    assert net.replace(params=5) == NetState({"params": 5, "batch_stats": 2}, 3)
    assert net.replace(batch_stats=5, opt_state=6) == NetState({"params": 1, "batch_stats": 5}, 6)
    assert net == NetState({"params": 1, "batch_stats": 2}, 3)


def test_what_a_state_lacks_has_no_leaf(tiny_config):
    state = jax.eval_shape(GAN.from_config(tiny_config).init, random.key(0))
    assert isinstance(state, GANState)
    assert state.extra is state.average is None
    paths = leaves(state).keys()
    assert {path.split(".")[0] for path in paths} == {"step", "gen", "disc"}
    assert "gen.batch_stats.batch_norm_1.mean" in paths
    assert "disc.opt_state.0.mu.output.kernel" in paths


def test_an_extra_must_be_made_by_a_function(gan):
    with pytest.raises(ConfigError, match="init_extra is .*\nexpected a function"):
        replace(gan, init_extra=first_extra())
