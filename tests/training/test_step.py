"""The training step: what is updated, when, from what."""

from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random

from cgan_jax.data import Batch
from cgan_jax.models.value_range import to_unit_range
from cgan_jax.training.gan import GAN
from cgan_jax.training.step import run_keys, train_step

KEYS = run_keys(0)


@pytest.fixture(scope="module")
def gan(tiny_config):
    return GAN.from_config(tiny_config)


@pytest.fixture(scope="module")
def data(tiny_dataset):
    return Batch(jnp.asarray(tiny_dataset.images), jnp.asarray(tiny_dataset.labels))


@pytest.fixture(scope="module")
def init(gan):
    """Makes a fresh state from a key."""
    return jax.jit(gan.init)


@pytest.fixture
def state(init):
    return init(KEYS.init)


@pytest.fixture(scope="module")
def step():
    return jax.jit(train_step, static_argnames="gan")


def first(data, n=4):
    return Batch(data.images[:n], data.labels[:n])


def assert_trees_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def assert_trees_close(one, other, atol):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=atol), one, other)


@partial(jax.jit, static_argnames="gan")
def reference_step(gan, state, batch, key):
    """The report's step, written out again with two passes through D and no sharing.

    The dropout masks are those of the step itself: a row of a mask belongs to a row of the batch.
    """
    latent_key, label_key, gen_dropout, disc_dropout = random.split(key, 4)
    n = len(batch.labels)
    latent = random.normal(latent_key, (n, gan.generator.latent_dim))
    fake_labels = random.randint(label_key, (n,), 0, gan.generator.n_classes)

    def generate(params):
        variables = {"params": params, "batch_stats": state.gen.variables["batch_stats"]}
        return gan.generator.apply(
            variables, latent, fake_labels, train=True, mutable=["batch_stats"]
        )

    def g_loss(params):
        fake, _ = generate(params)
        scores = gan.discriminator.apply(
            {"params": state.disc.params},
            fake,
            fake_labels,
            train=True,
            rngs={"dropout": gen_dropout},
        )
        return jnp.mean((scores - 1) ** 2)

    fake, updated = generate(state.gen.params)

    def d_loss(params):
        images = jnp.concatenate([to_unit_range(batch.images), fake])
        labels = jnp.concatenate([batch.labels, fake_labels])
        scores = gan.discriminator.apply(
            {"params": params}, images, labels, train=True, rngs={"dropout": disc_dropout}
        )
        real, fakes = scores[:n], scores[n:]
        return (jnp.mean((real - 1) ** 2) + jnp.mean(fakes**2)) / 2

    return {
        "g_loss": g_loss(state.gen.params),
        "d_loss": d_loss(state.disc.params),
        "g_grads": jax.grad(g_loss)(state.gen.params),
        "d_grads": jax.grad(d_loss)(state.disc.params),
        "batch_stats": updated["batch_stats"],
    }


def test_step_is_the_reports(gan, state, data, step):
    """Losses, first Adam step and statistics, against the step written out from the report.

    At the first step Adam moves each parameter by lr * g / (|g| + eps), whatever beta1 and beta2.
    """
    batch, key = first(data), random.key(7)
    expected = reference_step(gan, state, batch, key)
    new, losses = step(gan, state, batch, key)
    np.testing.assert_allclose(losses.g_loss, expected["g_loss"], rtol=1e-5)
    np.testing.assert_allclose(losses.d_loss, expected["d_loss"], rtol=1e-5)
    assert_trees_close(new.gen.variables["batch_stats"], expected["batch_stats"], 1e-6)
    for net, old, grads in (
        (new.gen, state.gen, expected["g_grads"]),
        (new.disc, state.disc, expected["d_grads"]),
    ):
        moment = jax.tree.map(lambda g: 0.5 * g, grads)
        assert_trees_close(net.opt_state[0].mu, moment, 1e-7)

        def check(after, before, g):
            sure = np.abs(g) > 1e-6  # below it, rounding may turn the sign
            expected_move = -2e-4 * g / (np.abs(g) + 1e-8)
            np.testing.assert_allclose((after - before)[sure], expected_move[sure], atol=2e-6)

        jax.tree.map(check, net.params, old.params, grads)


def test_second_moments_and_bias_correction_are_adams(gan, state, data, step):
    """Two steps by hand for one parameter that no BatchNorm follows."""
    batch = first(data)
    grads, now = [], state
    for key in (random.key(1), random.key(2)):
        grads.append(np.asarray(reference_step(gan, now, batch, key)["d_grads"]["output"]["bias"]))
        now, _ = step(gan, now, batch, key)
    mu, nu, expected = 0.0, 0.0, np.asarray(state.disc.params["output"]["bias"])
    for t, g in enumerate(grads, start=1):
        mu, nu = 0.5 * mu + 0.5 * g, 0.999 * nu + 0.001 * g**2
        expected = expected - 2e-4 * (mu / (1 - 0.5**t)) / (np.sqrt(nu / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(now.disc.params["output"]["bias"], expected, atol=1e-7)


def test_discriminator_sees_the_fakes_from_before_the_generators_update(gan, state, data, step):
    """With a generator that learns a thousand times faster, D's loss and update stay the same."""
    fast = replace(gan, gen_optimizer=optax.adam(0.2, b1=0.5))
    batch, key = first(data), random.key(3)
    one, losses = step(gan, state, batch, key)
    other, fast_losses = step(fast, state, batch, key)
    assert losses == fast_losses
    assert_trees_equal(one.disc, other.disc)
    assert not np.array_equal(one.gen.params["output"]["bias"], other.gen.params["output"]["bias"])


def test_generator_is_updated_against_the_discriminator_from_before(gan, state, data, step):
    """With a discriminator that learns a thousand times faster, G's update stays the same."""
    fast = replace(gan, disc_optimizer=optax.adam(0.2, b1=0.5))
    batch, key = first(data), random.key(3)
    one, losses = step(gan, state, batch, key)
    other, fast_losses = step(fast, state, batch, key)
    assert losses == fast_losses
    assert_trees_equal(one.gen, other.gen)
    assert not np.array_equal(
        one.disc.params["output"]["bias"], other.disc.params["output"]["bias"]
    )


def test_no_gradient_flows_from_the_discriminators_loss_into_the_generator(gan, state, data, step):
    """Without a generator's loss the generator stays, whatever the discriminator's says."""
    silent = replace(gan, loss=gan.loss._replace(generator=lambda fake: 0 * fake))
    new, _ = step(silent, state, first(data), random.key(0))
    assert_trees_equal(new.gen.params, state.gen.params)
    assert not np.array_equal(
        new.disc.params["output"]["bias"], state.disc.params["output"]["bias"]
    )


def dropout_masks(gan, state, batch, key):
    """What each dropout layer let through in a step, in the order of the calls."""
    masks = []

    def record(next_function, args, kwargs, context):
        output = next_function(*args, **kwargs)
        if isinstance(context.module, nn.Dropout):
            jax.debug.callback(lambda x: masks.append(np.asarray(x) != 0), output, ordered=True)
        return output

    with nn.intercept_methods(record):
        jax.jit(partial(train_step, gan))(state, batch, key)
    jax.effects_barrier()
    return masks


def test_dropout_is_active_and_fresh_in_every_pass(gan, state, data):
    """In G's step and in D's, for real and for fake, in each layer: six masks, no two alike."""
    masks = dropout_masks(gan, state, first(data), random.key(5))
    assert [mask.shape for mask in masks] == [(4, 16), (4, 16), (8, 16), (8, 16)]
    halves = [*masks[:2], *(mask[:4] for mask in masks[2:]), *(mask[4:] for mask in masks[2:])]
    for i, mask in enumerate(halves):
        assert 0.3 < mask.mean() < 0.9
        assert not any(np.array_equal(mask, other) for other in halves[:i])


def test_fake_labels_are_drawn_and_are_the_same_for_both_players(gan, state, data):
    """Uniform, not the batch's; the generator gets them, and the discriminator in both steps."""
    seen = {"Generator": [], "Discriminator": []}

    def record(next_function, args, kwargs, context):
        name = type(context.module).__name__
        if context.method_name == "__call__" and name in seen:
            jax.debug.callback(
                lambda labels, name=name: seen[name].append(np.asarray(labels)),
                args[1],
                ordered=True,
            )
        return next_function(*args, **kwargs)

    drawn = []
    batch = Batch(data.images, jnp.zeros_like(data.labels))
    step = jax.jit(partial(train_step, gan))
    for seed in range(4):
        with nn.intercept_methods(record):
            step(state, batch, random.key(seed))
        jax.effects_barrier()
        (generated,), (g_step, d_step) = seen["Generator"], seen["Discriminator"]
        np.testing.assert_array_equal(g_step, generated)
        np.testing.assert_array_equal(d_step, np.concatenate([batch.labels, generated]))
        drawn.append(generated)
        seen["Generator"].clear(), seen["Discriminator"].clear()
    counts = np.bincount(np.concatenate(drawn), minlength=3)
    assert counts.sum() == 88
    assert counts.min() > 15


def test_jit_equals_no_jit(gan, state, data, step):
    """Up to rounding: XLA fuses differently. Adam turns rounding into steps where a gradient is
    zero but for it, as for a bias before a BatchNorm; so gradients' moments are compared."""
    batch, key = first(data), random.key(11)
    jitted, jit_losses = step(gan, state, batch, key)
    with jax.disable_jit():
        plain, losses = train_step(gan, state, batch, key)
    np.testing.assert_allclose(jit_losses, losses, rtol=1e-6)
    assert_trees_close(jitted.gen.opt_state[0].mu, plain.gen.opt_state[0].mu, 1e-7)
    assert_trees_close(jitted.disc.opt_state[0].mu, plain.disc.opt_state[0].mu, 1e-7)
    stats, plain_stats = (each.gen.variables["batch_stats"] for each in (jitted, plain))
    assert_trees_close(stats, plain_stats, 1e-6)
    assert_trees_close(jitted.disc.params, plain.disc.params, 1e-5)


def test_seeds_differ_and_repeat(init):
    kernels = [init(run_keys(seed).init).gen.params["output"]["kernel"] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])
    streams = [random.key_data(key).tolist() for seed in (0, 1) for key in run_keys(seed)]
    assert len({tuple(stream) for stream in streams}) == 6
