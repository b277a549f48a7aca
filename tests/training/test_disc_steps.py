"""Several updates of the discriminator for each of the generator, as in WGAN-GP."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random

from cgan_jax import (
    Losses,
    generate_fakes,
    next_state,
    real_images,
    sample_inputs,
    step_keys,
    train,
    train_step,
    update_discriminator,
    update_generator,
)
from cgan_jax.config import TrainConfig
from cgan_jax.data import Batch
from cgan_jax.errors import ConfigError
from cgan_jax.losses import LOSSES
from cgan_jax.training.gan import GAN
from cgan_jax.training.penalties import WeightedPenalty, wgan_gp

KEY = random.key(3)


@pytest.fixture(scope="module")
def gan(tiny_config):
    """With dropout, BatchNorm and all that a step draws; gradients are the updates."""
    shallow = replace(tiny_config.model, generator_widths=(8, 16), discriminator_widths=(8, 8))
    return replace(
        GAN.from_config(replace(tiny_config, model=shallow)),
        gen_optimizer=optax.sgd(0.5),
        disc_optimizer=optax.sgd(0.5),
        loss=LOSSES["wasserstein"],
        penalty=WeightedPenalty(wgan_gp, 10.0),
        augment=lambda images, key: images * random.uniform(key, (len(images), 1, 1, 1)),
        disc_steps=3,
    )


@pytest.fixture(scope="module")
def state(gan):
    return jax.jit(gan.init)(random.key(0))


@pytest.fixture
def batch(tiny_dataset):
    return lambda n: Batch(tiny_dataset.images[:n], tiny_dataset.labels[:n])


def assert_trees_close(one, other):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), one, other)


@partial(jax.jit, static_argnums=(0, 4))
def reference_step(gan, state, batch, key, parts):
    """The step, written out for parts of a batch: `[(first row, row behind the last), ...]`."""
    gen, disc, losses = state.gen, state.disc, []
    for number, (start, end) in enumerate(parts):
        part = Batch(batch.images[start:end], batch.labels[start:end])
        is_last = number == len(parts) - 1
        keys = step_keys(gan, key if is_last else random.fold_in(key, number))
        inputs, real = sample_inputs(gan, part, keys), real_images(part)
        now = state.replace(gen=gen, disc=disc)
        if is_last:
            generator = update_generator(gan, now, inputs, real, keys)
            images = generator.images
        else:
            images, gen = generate_fakes(gan, gen, inputs, keys)
        update = update_discriminator(gan, now, real, (images, inputs[1]), keys)
        disc = update.net
        losses.append(update.loss)
    mean = sum(losses) / len(losses)
    return next_state(gan, state, generator.net, disc), Losses(mean, generator.loss)


@pytest.mark.parametrize(("n", "parts"), [(12, ((0, 4), (4, 8), (8, 12))), (5, ((0, 2), (2, 5)))])
def test_a_step_is_that_of_the_parts_of_its_batch(n, parts, gan, state, batch):
    """Each with latent points, labels, dropout, augmentation and penalty of its own; the last one
    has what the others leave, and an epoch's smaller last batch may have fewer parts."""
    step = jax.jit(train_step, static_argnames="gan")
    result = step(gan, state, batch(n), KEY)
    assert result[0].step == 1
    assert_trees_close(result, reference_step(gan, state, batch(n), KEY, parts))
    kernels = (each.disc.params["output"]["kernel"] for each in (result[0], state))
    assert np.abs(np.subtract(*kernels)).max() > 1e-3


def test_one_update_is_the_plain_step(gan, state, batch):
    """To the bit: where a batch is too small for more, and where no more are asked for."""
    step, plain = jax.jit(train_step, static_argnames="gan"), replace(gan, disc_steps=1)
    jax.tree.map(
        np.testing.assert_array_equal,
        step(gan, state, batch(3), KEY),
        step(plain, state, batch(3), KEY),
    )
    program = str(jax.make_jaxpr(partial(train_step, plain))(state, batch(12), KEY))
    several = str(jax.make_jaxpr(partial(train_step, gan))(state, batch(12), KEY))
    assert "scan[" in several
    assert "scan[" not in program


# From a configuration


def test_a_step_takes_a_batch_for_each_update(tiny_config, tiny_dataset):
    """22 images in batches of 4: one step of 3 batches and one of 10 images in an epoch."""
    config, shapes = replace(tiny_config, disc_steps=3), []
    assert config.images_per_step == 12
    gan = GAN.from_config(config)
    assert gan.disc_steps == 3

    def recorded(gan, state, batch, key):
        shapes.append(batch.images.shape)
        mean = batch.labels.mean()
        return state.replace(step=state.step + 1), Losses(mean, mean)

    assert train(gan, config, tiny_dataset, step=recorded).step == 6
    assert set(shapes) == {(12, 4, 4, 1), (10, 4, 4, 1)}


def test_the_settings_that_depend_on_the_images_of_a_step(tiny_dataset):
    config = replace(TrainConfig(), batch_size=4, epochs=5, disc_steps=3)
    scheduled = replace(config, optimizer=replace(config.optimizer, lr_end=0.0))
    assert scheduled.with_schedule_steps(22).schedule_steps == 5 * 2
    averaged = replace(config, average=replace(config.average, keep=True))
    assert GAN.from_config(averaged).average.batch_size == 12
    with pytest.raises(ConfigError, match="disc_steps 6 takes 24 images in a step, of 22"):
        replace(config, disc_steps=6).check_data(22)
    with pytest.raises(ConfigError, match="last batch of one image"):
        replace(config, disc_steps=3).check_data(13)
    for wrong in (0, 1.5, True):
        with pytest.raises(ConfigError, match="disc_steps must be"):
            replace(config, disc_steps=wrong)
        with pytest.raises(ConfigError, match="disc_steps must be"):
            replace(GAN.from_config(config), disc_steps=wrong)


def test_each_part_of_a_batch_is_one_that_the_networks_take(gan, state):
    images, labels = jnp.zeros((12, 5, 4, 1), jnp.uint8), jnp.zeros(12, jnp.int32)
    with pytest.raises(ConfigError, match=r"images uint8 \[12, 5, 4, 1\]"):
        jax.eval_shape(partial(train_step, gan), state, Batch(images, labels), KEY)
