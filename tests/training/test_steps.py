"""The training step and the loop over a span of them: what is updated, when, from what."""

import re
from dataclasses import replace
from functools import partial, wraps

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random

from cgan_jax.models.value_range import to_unit_range
from cgan_jax.training import spans as spans_module
from cgan_jax.training.gan import GAN
from cgan_jax.training.spans import Spans, compiled_train_steps
from cgan_jax.training.steps import Batch, run_keys, shuffle, train_step, train_steps

KEYS = run_keys(0)


@pytest.fixture(scope="module")
def gan(tiny_config):
    return GAN.from_config(tiny_config)


@pytest.fixture(scope="module")
def data(tiny_dataset):
    return Batch(jnp.asarray(tiny_dataset.images), jnp.asarray(tiny_dataset.labels))


@pytest.fixture(scope="module")
def init(gan):
    """Makes a fresh state, which the loop may donate."""
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
        variables = {"params": params, "batch_stats": state.gen.batch_stats}
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
    assert_trees_close(new.gen.batch_stats, expected["batch_stats"], 1e-6)
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
    assert_trees_close(jitted.gen.batch_stats, plain.gen.batch_stats, 1e-6)
    assert_trees_close(jitted.disc.params, plain.disc.params, 1e-5)


@pytest.fixture(scope="module")
def take(gan, tiny_dataset):
    """Takes steps through the jitted loop, in spans of at most `at_most`."""

    def take(state, n_steps, at_most):
        spans = Spans(gan, tiny_dataset, 4, KEYS)
        step = int(state.step)
        end, rows = step + n_steps, []
        while step < end:
            state, span, losses, _ = spans.run(state, step, min(at_most, end - step))
            rows.append(losses)
            step += span.n_steps
        return state, np.concatenate(rows)

    return take


def test_a_span_of_steps_is_the_steps_one_by_one(take, init):
    """Bitwise, over an epoch's end and its smaller last batch."""
    whole, whole_losses = take(init(KEYS.init), 9, at_most=100)
    single, single_losses = take(init(KEYS.init), 9, at_most=1)
    assert_trees_equal(whole, single)
    np.testing.assert_array_equal(whole_losses, single_losses)
    assert whole.step == 9


@pytest.mark.slow
@pytest.mark.usefixtures("as_outside_of_tests")
@pytest.mark.parametrize("balance", [False, True])
def test_blocks_of_large_data_give_the_same(gan, tiny_dataset, init, monkeypatch, balance):
    """Bitwise, over two epochs and from the middle of one; the blocks do not fill an epoch."""

    def take(state, step, end):
        spans = Spans(gan, tiny_dataset, 4, KEYS, balance=balance)
        rows = []
        while step < end:
            state, span, losses, _ = spans.run(state, step, end - step)
            rows.append(losses)
            step += span.n_steps
        return state, np.concatenate(rows), len(rows)

    whole, losses, n_spans = take(init(KEYS.init), 0, 12)
    monkeypatch.setattr(spans_module, "SHUFFLED_BYTES", 4 * tiny_dataset.images[:4].nbytes)
    middle, first_losses, _ = take(init(KEYS.init), 0, 9)
    cut, last_losses, _ = take(middle, 9, 12)
    assert_trees_equal(whole, cut)
    np.testing.assert_array_equal(losses, np.concatenate([first_losses, last_losses]))
    _, _, n_cut_spans = take(init(KEYS.init), 0, 12)
    assert (n_spans, n_cut_spans) == (2, 6)


def test_the_loop_is_train_step_with_the_clocks_keys_and_order(gan, state, data, step, take):
    """The same as calling train_step with fold_in(keys.steps, step) on the permuted batches."""
    expected, losses = state, []
    for s in range(6):
        order = random.permutation(random.fold_in(KEYS.order, s // 6), 22)
        rows = order[(s % 6) * 4 :][:4]
        batch = Batch(data.images[rows], data.labels[rows])
        expected, now = step(gan, expected, batch, random.fold_in(KEYS.steps, s))
        losses.append(now)
    looped, loop_losses = take(state, 6, at_most=100)
    np.testing.assert_allclose(loop_losses, np.array(losses), rtol=1e-5)
    assert_trees_close(looped.disc.params, expected.disc.params, 1e-5)


@pytest.mark.slow
def test_a_known_trip_count_gives_the_same(gan, data, init, take):
    """The program that a GPU runs: `n_steps` static."""
    state = init(KEYS.init)
    free, losses = take(state, 5, at_most=5)
    state = init(KEYS.init)
    fixed, fixed_losses = compiled_train_steps(True)(
        gan, state, shuffle(data, KEYS.order, 0), KEYS.steps, 5, batch_size=4
    )
    np.testing.assert_allclose(np.stack(fixed_losses, 1)[:5], losses, rtol=1e-5)
    assert_trees_close(fixed.disc.params, free.disc.params, 1e-5)


def test_memory_is_that_of_the_compiled_program_and_of_the_data(gan, state, data, tiny_dataset):
    arguments = {"state": state, "shuffled": shuffle(data, KEYS.order, 0), "key": KEYS.steps}
    own = compiled_train_steps(False).lower(
        gan=gan, n_steps=5, last_batch=False, batch_size=4, **arguments
    )
    stats = own.compile().memory_analysis()
    results = stats.output_size_in_bytes - stats.alias_size_in_bytes
    taken = stats.argument_size_in_bytes + stats.temp_size_in_bytes + results
    of_data = data.images.nbytes + data.labels.nbytes
    assert Spans(gan, tiny_dataset, 4, KEYS).memory() == taken + of_data
    held = sum(leaf.nbytes for leaf in jax.tree.leaves((state, data)))
    assert held < taken < 2 * held
    assert results >= 2 * 6 * 4  # the losses of six steps; the state is updated in place


def test_one_trace_for_all_spans(state, take, monkeypatch):
    """Two for a run: batches of the full size, and the smaller last ones."""
    traces = []

    @wraps(train_steps)  # jit finds the static arguments by the signature
    def counted(*args, **kwargs):
        traces.append(kwargs)
        return train_steps(*args, **kwargs)

    run_steps = jax.jit(
        counted, static_argnames=["gan", "batch_size", "last_batch"], donate_argnames="state"
    )
    monkeypatch.setattr("cgan_jax.training.spans.compiled_train_steps", lambda *_: run_steps)
    for at_most in (5, 1, 2):
        state, _ = take(state, 6, at_most=at_most)
    assert [trace["last_batch"] for trace in traces] == [False, True]


def test_shuffling_keeps_each_image_with_its_label(data):
    images, labels = jax.jit(shuffle)(data, KEYS.order, 3)
    pairs = {image.tobytes(): label for image, label in zip(*map(np.asarray, data), strict=True)}
    assert len(pairs) == 22
    for image, label in zip(np.asarray(images), np.asarray(labels), strict=True):
        assert pairs.pop(image.tobytes()) == label


@pytest.mark.slow
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="tells of XLA's CPU compiler")
def test_kernels_and_moments_are_updated_in_place(gan, data, state):
    """Copies of them in the loop took a tenth of a step."""
    shuffled = shuffle(data, KEYS.order, 0)

    def copies(compiled_steps):
        lowered = compiled_steps.lower(gan, state, shuffled, KEYS.steps, 5, batch_size=4)
        text = lowered.compile().as_text()
        return [
            line for line in text.splitlines() if re.search(r"= f32\[\d+,\d+\]\S* copy\(", line)
        ]

    assert len(copies(compiled_train_steps(False))) < 3
    without = jax.jit(train_steps, static_argnames=["gan", "batch_size"], donate_argnames="state")
    assert len(copies(without)) > 6  # else the option is no longer needed


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own(gan, data, init):
    orders = []
    for epoch, shown in enumerate(real_images_shown(gan, init, data, n_epochs=2)):
        key = random.fold_in(KEYS.order, epoch)
        assert [len(batch) for batch in shown] == [4, 4, 4, 4, 4, 2]
        images = np.concatenate(shown)
        assert sorted(images) == list(range(22))
        np.testing.assert_array_equal(images, random.permutation(key, 22))
        orders.append(images.tolist())
    assert orders[0] != orders[1]
    assert orders[0] != list(range(22))


def real_images_shown(gan, init, data, n_epochs):
    """Which images D is shown as real: for each epoch of the loop, batch by batch."""
    numbers = jnp.arange(22, dtype=jnp.uint8)[:, None, None, None]
    numbered = Batch(jnp.broadcast_to(numbers, data.images.shape), data.labels)
    shown = []

    def record(next_function, args, kwargs, context):
        if type(context.module).__name__ == "Discriminator" and context.method_name == "__call__":
            jax.debug.callback(lambda x: shown.append(np.asarray(x)), args[0], ordered=True)
        return next_function(*args, **kwargs)

    take = jax.jit(train_steps, static_argnames=("gan", "n_steps", "batch_size", "last_batch"))
    for epoch in range(n_epochs):
        shuffled = shuffle(numbered, KEYS.order, epoch)
        state = init(KEYS.init).replace(step=jnp.int32(6 * epoch))
        with nn.intercept_methods(record):
            for n_steps, last_batch in ((5, False), (1, True)):
                more = {"batch_size": 4, "last_batch": last_batch}
                state, _ = take(gan, state, shuffled, KEYS.steps, n_steps, **more)
        jax.effects_barrier()
        both_halves = shown[1::2]  # D is called on the fakes first, then on real and fake
        reals = [images[: len(images) // 2, 0, 0, 0] for images in both_halves]
        yield [np.rint((real + 1) * 127.5).astype(int) for real in reals]
        shown.clear()


def test_seeds_differ_and_repeat(init):
    kernels = [init(run_keys(seed).init).gen.params["output"]["kernel"] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])
    streams = [random.key_data(key).tolist() for seed in (0, 1) for key in run_keys(seed)]
    assert len({tuple(stream) for stream in streams}) == 6
