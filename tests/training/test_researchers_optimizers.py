"""The tutorial's recipes of optimizers and callbacks do what they say: numbers by hand.

The recipes' optimizers train tiny networks here.
"""

import math
from dataclasses import replace
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random

from cgan_jax import (
    Batch,
    Callback,
    Losses,
    load_generator,
    next_state,
    real_images,
    run_keys,
    run_steps,
    sample_inputs,
    step_keys,
    train_step,
    update_discriminator,
    update_generator,
)
from cgan_jax.callbacks import MeasuresTable, TensorBoard
from cgan_jax.metrics.eval_plan import FAST
from cgan_jax.metrics.evaluation import Evaluator
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.tables import read_measures
from cgan_jax.sampling.generator import TrainedGenerator
from cgan_jax.training.gan import GAN
from cgan_jax.training.loop import train
from cgan_jax.training.penalties import WeightedPenalty, r1
from tests.helpers import assert_resumes, float64_state
from tests.runs.test_events import read as read_events

KEY = random.key(3)
in_float64 = pytest.mark.usefixtures("float64")
close = partial(np.testing.assert_allclose, rtol=0, atol=1e-11)
keep_gradients = optax.GradientTransformation(
    optax.tree.zeros_like, lambda grads, state, params=None: (grads, grads)
)


@pytest.fixture(scope="module")
def small(tiny_config):
    """Networks without dropout or BatchNorm."""
    model = replace(
        tiny_config.model, generator_widths=(8,), discriminator_widths=(8, 6), dropout_rate=0.0
    )
    return replace(tiny_config, model=model)


@pytest.fixture(scope="module")
def batches(tiny_dataset):
    """Those of five steps of four images."""
    images, labels = tiny_dataset.images[:20], tiny_dataset.labels[:20]
    return Batch(images.reshape(5, 4, 4, 4, 1), labels.reshape(5, 4))


def optimized(config, optimizer, **parts):
    """A GAN whose networks both have an optimizer, and keep the gradients that it is given."""
    keeping = optax.chain(keep_gradients, optimizer)
    return replace(GAN.from_config(config), gen_optimizer=keeping, disc_optimizer=keeping, **parts)


def history(gan, batches):
    """The states before and after each step, and the losses of each."""
    state, step, losses = float64_state(gan), jax.jit(train_step, static_argnums=0), []
    states = [state]
    for i in range(len(batches.labels)):
        batch = jax.tree.map(lambda rows, i=i: rows[i], batches)
        state, both = step(gan, state, batch, random.fold_in(KEY, i))
        states.append(state)
        losses.append(both)
    return states, losses


def orthogonalized(matrix):
    """Five Newton-Schulz steps with Muon's coefficients."""
    x = matrix / np.linalg.norm(matrix)
    x = x if x.shape[0] <= x.shape[1] else x.T
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x - 4.775 * square @ x + 2.0315 * square @ square @ x
    return x if x.shape == matrix.shape else x.T


def ahead(mean, g, decay, t):
    """Nesterov's estimate in step t, counted from 1, of the mean gradient in the next one."""
    return decay * mean / (1 - decay ** (t + 1)) + (1 - decay) * g / (1 - decay**t)


def muon_moves(gradients):
    """What Muon and, for vectors, Adam subtract from a parameter in each step."""
    mean = square = 0.0
    for t, g in enumerate(gradients, 1):
        if g.ndim == 2:
            mean = 0.95 * mean + 0.05 * g
            rows, columns = g.shape
            turned = orthogonalized(ahead(mean, g, 0.95, t))
            yield 0.01 * math.sqrt(max(1, columns / rows)) * turned
        else:
            mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g**2
            root = np.sqrt(square / (1 - 0.999**t)) + 1e-8
            yield 2e-4 * ahead(mean, g, 0.9, t) / root


@in_float64
def test_muon_orthogonalizes_matrices_and_adam_moves_the_rest(tutorial, small, batches):
    gan = optimized(small, tutorial("Muon")["muon"])
    states, _ = history(gan, batches)
    for net in ("gen", "disc"):
        nets = [getattr(state, net) for state in states]
        gradients = [list(map(np.asarray, jax.tree.leaves(n.opt_state[0]))) for n in nets[1:]]
        params = [jax.tree.leaves(each.params) for each in nets]
        assert {leaf.ndim for leaf in params[0]} == {1, 2}
        for i in range(len(params[0])):
            moves = muon_moves([each[i] for each in gradients])
            for t, move in enumerate(moves):
                close(params[t + 1][i], params[t][i] - move, atol=1e-7)  # constants are float32
                assert abs(move).max() > 1e-5


@in_float64
def test_a_schedule_free_generator_is_sampled_at_its_average(tutorial, small, batches):
    """Defazio et al. 2024, section 1: gradients are taken at y, between the point z that
    moves and the mean x of all z, and x is what is evaluated."""
    gan = replace(
        GAN.from_config(small), gen_optimizer=tutorial("A schedule-free optimizer")["schedule_free"]
    )
    states, _ = history(gan, batches)
    points = [state.gen.opt_state.z for state in states[1:]]
    for t, state in enumerate(states[1:], 1):
        x = jax.tree.map(lambda *z: sum(z) / len(z), *points[:t])
        rounded = partial(close, atol=1e-8)  # the state's 0.9 is a float32
        jax.tree.map(rounded, state.sampling_variables["params"], x)
        y = jax.tree.map(lambda x, z: 0.9 * x + 0.1 * z, x, points[t - 1])
        jax.tree.map(rounded, state.gen.params, y)
    kernels = (p["output"]["kernel"] for p in (x, state.gen.params))
    assert abs(np.subtract(*kernels)).max() > 1e-6


def test_a_schedule_free_run_is_loaded_at_its_average(
    tutorial, tiny_config, tiny_dataset, tmp_path
):
    """With BatchNorm; and what was loaded makes the images of the state's evaluation weights."""
    schedule_free = tutorial("A schedule-free optimizer")["schedule_free"]
    gan = replace(GAN.from_config(tiny_config), gen_optimizer=schedule_free)
    run = RunFolder.start(tmp_path / "run", tiny_config, tiny_dataset.class_names)
    state = assert_resumes(gan, tiny_config, lambda: tiny_dataset, run.checkpoints)
    loaded = load_generator(run.path)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, state.sampling_variables)
    statistics = (each["batch_stats"] for each in (loaded.variables, state.gen.variables))
    jax.tree.map(np.testing.assert_array_equal, *statistics)
    opt = state.gen.opt_state
    x = jax.tree.map(lambda y, z: (y - 0.1 * z) / 0.9, state.gen.params, opt.z)
    expected = TrainedGenerator(
        gan.generator, {**state.gen.variables, "params": x}, tiny_dataset.class_names, 18
    )
    images = loaded.generate([0, 1, 2], n=5)
    assert abs(images.astype(int) - expected.generate([0, 1, 2], n=5)).max() <= 1


@in_float64
def test_noise_on_the_gradients_has_its_variance(tutorial, tiny_config, batches):
    """Neelakantan et al. 2015, section 3; other noise in each step. It is what Adam's mean has
    beside the gradients."""
    gan = optimized(tiny_config, tutorial("Noise on the gradients")["noisy"])
    states, _ = history(gan, batches)
    noise = []
    for t, (before, after) in enumerate(pairwise(states)):
        means = (optax.tree.get(state.disc.opt_state, "mu") for state in (before, after))
        with_noise = jax.tree.map(lambda old, new: (new - 0.5 * old) / 0.5, *means)
        added = jax.tree.map(jnp.subtract, with_noise, after.disc.opt_state[0])
        noise.append(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(added)]))
        assert noise[t].std() == pytest.approx(math.sqrt(0.01 / (1 + t) ** 0.55), rel=0.1)
        assert abs(noise[t].mean()) < 0.02
    correlations = np.corrcoef(noise) - np.eye(5)
    assert abs(correlations).max() < 0.15


def test_noise_on_the_gradients_is_resumed(tutorial, tiny_config, tiny_dataset, tmp_path):
    noisy = tutorial("Noise on the gradients")["noisy"]
    gan = replace(GAN.from_config(tiny_config), gen_optimizer=noisy, disc_optimizer=noisy)
    assert_resumes(gan, tiny_config, lambda: tiny_dataset, tmp_path / "checkpoints")


def plateau_scales(values):
    """Half after each three epochs of three values that bring no lower mean."""
    lowest, count, scale, scales = math.inf, 0, 1.0, []
    for i, _ in enumerate(values, 1):
        if i % 3 == 0:
            mean = sum(values[i - 3 : i]) / 3
            improved = mean < (1 - 1e-4) * lowest
            count = 0 if improved else count + 1
            lowest = mean if improved else lowest
            if count == 3:
                scale, count = scale / 2, 0
        scales.append(scale)
    return scales


@in_float64
def test_learning_rates_fall_when_a_loss_does_not(tutorial, small, batches):
    """An epoch has three steps here. The discriminator's loss has the penalty in it, which rises
    in every step."""
    falling = tutorial("Learning rates that fall on plateaus", changes=[("938", "3")])["falling"]
    gan = optimized(
        small, falling, penalty=lambda score, real, fake, *, step, key: 50.0 * (1 + step)
    )
    many = jax.tree.map(lambda rows: np.concatenate([rows] * 6), batches)
    states, losses = history(gan, many)
    g_losses = [float(each.g_loss) for each in losses]
    totals = [float(each.d_loss) + 50 * (1 + i) for i, each in enumerate(losses)]
    for net, values in (("gen", g_losses), ("disc", totals)):
        nets = [getattr(state, net) for state in states]
        scales = [float(optax.tree.get(each.opt_state, "scale")) for each in nets[1:]]
        assert scales == plateau_scales(values)
    assert scales[-1] == 0.125  # of the discriminator, from the fourth, seventh and tenth epoch on
    adam = optax.adam(2e-4, b1=0.5)
    gradient, (adam_state, _) = nets[-1].opt_state[0], nets[-2].opt_state[1]
    move, _ = adam.update(gradient, adam_state)
    moved = jax.tree.map(jnp.subtract, nets[-1].params, nets[-2].params)
    jax.tree.map(close, moved, jax.tree.map(lambda m: 0.125 * m, move))


def test_a_wait_for_a_plateau_is_resumed(tutorial, tiny_config, tiny_dataset, tmp_path):
    """Before the first epoch's end, the lowest loss so far is infinite: in the checkpoint too."""
    falling = tutorial("Learning rates that fall on plateaus")["falling"]
    gan = replace(GAN.from_config(tiny_config), gen_optimizer=falling, disc_optimizer=falling)
    state = assert_resumes(gan, tiny_config, lambda: tiny_dataset, tmp_path / "checkpoints")
    assert optax.tree.get(state.gen.opt_state, "best_value") == math.inf


def keep_mean(average, variables, step):
    """Depends on the number of updates."""
    return jax.tree.map(lambda a, v: a + (v - a) / step, average, variables)


@in_float64
@pytest.mark.parametrize("n_steps", [None, 4])
def test_accumulated_gradients_are_those_of_the_large_batch(tutorial, small, tiny_dataset, n_steps):
    """Average, learning rate and penalty change with every update, as without accumulation."""
    own_step = tutorial("Gradient accumulation")["accumulating_step"]
    adam = optax.adam(optax.linear_schedule(0.02, 0.001, 4), b1=0.5)
    penalty = WeightedPenalty(r1, 0.5, gamma_end=0.1, schedule_steps=4, every=2)
    large = replace(
        GAN.from_config(small),
        gen_optimizer=adam,
        disc_optimizer=adam,
        average=keep_mean,
        penalty=penalty,
    )
    parts = optax.MultiSteps(adam, every_k_schedule=4, accumulator_dtype=float)
    parts = parts.gradient_transformation()
    accumulating = replace(large, gen_optimizer=parts, disc_optimizer=parts)

    def large_step(gan, state, batch, key):
        """On the draws of the four parts."""
        draws = [
            sample_inputs(gan, jax.tree.map(lambda rows, i=i: rows[2 * i :][:2], batch), keys)
            for i in range(4)
            for keys in [step_keys(accumulating, random.fold_in(key, i))]
        ]
        inputs = jax.tree.map(lambda *rows: jnp.concatenate(rows), *draws)
        keys, real = step_keys(gan, key), real_images(batch)
        gen = update_generator(gan, state, inputs, real, keys)
        disc = update_discriminator(gan, state, real, (gen.images, inputs[1]), keys)
        return next_state(gan, state, gen.net, disc.net), Losses(disc.loss, gen.loss)

    rng = np.random.default_rng(0)
    rows = rng.integers(0, 22, (4, 8))
    batches = Batch(tiny_dataset.images[rows], tiny_dataset.labels[rows])
    key = run_keys(0).steps
    ours, theirs = (
        jax.jit(partial(run_steps, gan, n_steps=n_steps, step=step))(
            float64_state(gan), batches, key
        )
        for gan, step in ((accumulating, own_step), (large, large_step))
    )
    (state, losses), (expected, expected_losses) = ours, theirs
    jax.tree.map(close, losses, expected_losses)
    for net in ("gen", "disc"):
        one, other = getattr(state, net), getattr(expected, net)
        jax.tree.map(partial(close, atol=1e-9), one.params, other.params)
        assert (one.opt_state.gradient_step, one.opt_state.mini_step) == (4, 0)
    jax.tree.map(partial(close, atol=1e-9), state.average, expected.average)
    assert state.step == expected.step == 4
    before = float64_state(large).disc.params["output"]["kernel"]
    assert abs(state.disc.params["output"]["kernel"] - before).max() > 0.01


def test_a_callback_halves_the_learning_rate_and_ends_training(tutorial, small, tiny_dataset):
    """As a schedule does; and no program is compiled for the changed state."""
    names = tutorial("A learning rate from a callback")
    traced = []

    def counted_step(gan, state, batch, key):
        traced.append(len(batch.labels))
        return train_step(gan, state, batch, key)

    gan = replace(GAN.from_config(small), disc_optimizer=names["adam"])
    config = replace(small, epochs=10)
    [callback] = names["calls"][0]["callbacks"]
    state = train(gan, config, tiny_dataset, callbacks=[callback], step=counted_step)
    assert state.step == 4 * 6
    assert optax.tree.get(state.disc.opt_state, "learning_rate") == np.float32(2e-4 / 16)

    n_traced = len(traced)
    schedule = optax.piecewise_constant_schedule(2e-4, {6 * k: 0.5 for k in (1, 2, 3)})
    scheduled = replace(gan, disc_optimizer=optax.adam(schedule, b1=0.5))
    expected = train(scheduled, replace(config, epochs=4), tiny_dataset, step=counted_step)
    assert len(traced) == 2 * n_traced
    for net in ("gen", "disc"):
        one, other = (getattr(each, net).params for each in (state, expected))
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), one, other)


@in_float64
def test_recorded_norms_are_those_of_each_layers_gradients(tutorial, tiny_config, batches):
    names = tutorial("Gradient norms")
    recorded = optax.chain(names["recorder"], optax.sgd(1.0))
    gan = replace(GAN.from_config(tiny_config), gen_optimizer=recorded)
    states, _ = history(gan, batches)
    for before, after in pairwise(states):
        gradients = jax.tree.map(jnp.subtract, before.gen.params, after.gen.params)
        norms = names["GradientNorms"]().measure(SimpleNamespace(state=after))
        for layer, weights in gradients.items():
            squares = sum((np.asarray(leaf) ** 2).sum() for leaf in jax.tree.leaves(weights))
            assert norms[f"gradient/{layer}"] == pytest.approx(math.sqrt(squares), abs=1e-9)
        assert len(norms) == len(gradients) == 7
    assert min(norms[f"gradient/hidden_{i}"] for i in range(3)) > 1e-6


def test_norms_are_in_tensorboards_events(tutorial, tiny_config, tiny_dataset, tmp_path):
    names = tutorial("Gradient norms")
    gan = GAN.from_config(tiny_config)
    gan = replace(gan, gen_optimizer=optax.chain(names["recorder"], gan.gen_optimizer))
    run = RunFolder.start(tmp_path / "run", tiny_config, tiny_dataset.class_names)
    callbacks = [TensorBoard(run), names["GradientNorms"]()]
    state = train(gan, tiny_config, tiny_dataset, callbacks=callbacks)
    [file] = (tmp_path / "run/events").iterdir()
    values = {
        (event.step, value.tag): value.simple_value
        for event in read_events(file)
        for value in event.summary.value
    }
    for layer, norm in state.gen.opt_state[0].items():
        steps = [step for step, tag in values if tag == f"measures/gradient/{layer}"]
        assert steps == [6, 12, 18]
        assert values[18, f"measures/gradient/{layer}"] == norm


def test_own_measures_are_in_the_table(tutorial, tiny_config, tiny_dataset, tmp_path):
    """Beside those of the images, and whatever the callbacks' order."""
    names = tutorial("Your own measure", n_blocks=1)  # the second one needs all images
    gan, states = GAN.from_config(tiny_config), []

    class Keep(Callback):
        def on_epoch_end(self, epoch):
            states.append(jax.device_get(epoch.state))

    for i in range(2):
        run = RunFolder.start(tmp_path / f"{i}", tiny_config, tiny_dataset.class_names)
        table = MeasuresTable(gan, run, names["brightness"], every=1, n_images=30)
        callbacks = [table, names["WeightNorm"](), Keep()]
        train(gan, tiny_config, tiny_dataset, callbacks=callbacks[:: 1 - 2 * i])
        rows = read_measures(run.measures)
        assert [row["epoch"] for row in rows] == [1, 2, 3]
        for row, state in zip(rows, states[3 * i :], strict=True):
            generator = TrainedGenerator(
                gan.generator, state.gen.variables, tiny_dataset.class_names, 0
            )
            images = generator.generate([0, 1, 2], n=10)
            assert row["brightness"] == pytest.approx(images.mean() / 255, rel=1e-6)
            leaves = jax.tree.leaves(state.gen.params)
            squares = sum((leaf.astype(float) ** 2).sum() for leaf in leaves)
            assert row["weight_norm"] == pytest.approx(math.sqrt(squares), rel=1e-5)


@pytest.mark.slow
def test_own_measures_are_in_an_evaluation(tutorial, fashion_mnist, fashion_mnist_test, small):
    names = tutorial("Your own measure", n_blocks=1)
    config = replace(small, model=replace(small.model, n_classes=10, img_size=28))
    gan = GAN.from_config(config)
    state = jax.jit(gan.init)(random.key(0))
    generator = TrainedGenerator(gan.generator, state.gen.variables, fashion_mnist.class_names, 0)
    evaluator = Evaluator(fashion_mnist, fashion_mnist_test, FAST, own_measure=names["brightness"])
    evaluation = evaluator.evaluate(generator)
    figures = evaluation.measures["brightness"]
    images = generator.generate(np.arange(2_000) % 10)
    assert figures["mean"] == pytest.approx(images.mean() / 255, rel=1e-6)
    assert figures["real"] == pytest.approx(evaluator.real_test.images.mean() / 255, rel=1e-6)
    assert list(evaluation.measures)[-1] == "brightness"
