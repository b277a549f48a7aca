"""A user's own networks: what is refused, and that their runs can be sampled from."""

import logging
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random

from cgan_jax.errors import ConfigError, RunError
from cgan_jax.models.report import Generator
from cgan_jax.runs.checkpoint import Checkpoints
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.restore import restore_run
from cgan_jax.sampling.generator import load_generator
from cgan_jax.training.gan import GAN


class PlainGenerator(Generator):
    last_axes: tuple[int, ...] = (4, 4, 1)

    @nn.compact
    def __call__(self, latent, labels, *, train):
        return jnp.tanh(nn.Dense(16)(latent)).reshape(-1, *self.last_axes)


class PlainDiscriminator(nn.Module):
    one_each: bool = True

    @nn.compact
    def __call__(self, images, labels, *, train):
        scores = nn.Dense(1)(images.reshape(len(images), -1))
        return scores[:, 0] if self.one_each else scores


PLAIN = PlainGenerator(n_classes=3, latent_dim=5, img_size=4)


@pytest.fixture(scope="module")
def gan(tiny_config):
    return GAN.from_config(tiny_config)


@pytest.fixture
def run(tiny_config, tmp_path):
    return RunFolder.start(tmp_path / "run", tiny_config, ("a", "b", "c"))


def save(run, gan):
    """Save a checkpoint of random numbers, and return the generator's variables."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(gan.init, random.key(0))
    state = jax.tree.map(lambda leaf: rng.uniform(0, 1, leaf.shape).astype(leaf.dtype), shapes)
    with Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save(7, state.replace(step=np.int32(7)))
    return state.gen.variables


def test_generator_is_loaded_without_the_rest_of_its_gan(gan, run, caplog):
    others = {"discriminator": PlainDiscriminator(), "gen_optimizer": optax.sgd(0.1)}
    variables = save(run, replace(gan, **others))
    with caplog.at_level(logging.WARNING):
        loaded = load_generator(run.path)
    assert not caplog.records
    assert (loaded.module, loaded.step) == (gan.generator, 7)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)
    with pytest.raises(RunError, match="does not fit"):
        restore_run(run)


def test_own_generator_must_be_passed(gan, run):
    variables = save(run, replace(gan, generator=PLAIN))
    with pytest.raises(RunError, match=r"does not fit: gen\..*\n.* your own networks"):
        load_generator(run.path)
    loaded = load_generator(run.path, generator=PLAIN)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)
    assert loaded.generate(["a", "c"]).shape == (2, 4, 4, 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"generator": nn.Dense(3)}, "Dense has no n_classes"),
        ({"generator": PLAIN.clone(img_size=None)}, "PlainGenerator has no img_size"),
        (
            {"generator": PLAIN.clone(last_axes=(16,))},
            r"makes \[2, 16\] .*\n.* \[2, 4, 4, 1\]",
        ),
        ({"discriminator": PlainDiscriminator(one_each=False)}, r"gives \[2, 1\] .*\n.*\[2\]"),
    ],
    ids=["not a generator", "no size", "flat images", "scores in a column"],
)
def test_networks_with_another_signature_are_refused(changes, words, gan):
    with pytest.raises(ConfigError, match=words):
        jax.eval_shape(replace(gan, **changes).init, random.key(0))


def test_load_generator_refuses_other_modules(run, gan):
    save(run, gan)
    with pytest.raises(ConfigError, match="has no n_classes"):
        load_generator(run.path, generator=PlainDiscriminator())
