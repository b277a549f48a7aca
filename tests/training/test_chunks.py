"""The compiled loop over steps, and that a run computes the same bits whatever its chunks are."""

import re
from dataclasses import replace
from functools import partial, wraps

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from cgan_jax import Losses, run_steps, train
from cgan_jax.data import Batch, Dataset, DatasetSource
from cgan_jax.errors import ConfigError, DataError
from cgan_jax.training import chunks
from cgan_jax.training.callbacks import Callback
from cgan_jax.training.chunks import ChunkRunner, compiled_steps, is_finite
from cgan_jax.training.gan import GAN
from cgan_jax.training.penalties import WeightedPenalty, r1
from cgan_jax.training.step import run_keys, train_step
from tests.helpers import StopAfter, first_fast

KEYS = run_keys(0)
ON_A_CPU = pytest.mark.skipif(jax.default_backend() != "cpu", reason="tells of XLA's CPU compiler")


@pytest.fixture(scope="module")
def config(tiny_config):
    """Networks of one hidden layer, which compile sooner."""
    shallow = replace(tiny_config.model, generator_widths=(8, 16), discriminator_widths=(16, 16))
    return replace(tiny_config, model=shallow)


@pytest.fixture(scope="module")
def gan(config):
    return GAN.from_config(config)


@pytest.fixture(scope="module")
def init(gan):
    """Makes a fresh state, which the loop may donate."""
    return jax.jit(gan.init)


def rare(gan, every=4):
    """A GAN with a penalty in every `every`-th step."""
    return replace(gan, penalty=WeightedPenalty(r1, every=every))


def batches_of(dataset, n, size=4, epoch=0):
    """The full batches of an epoch's first n steps."""
    return DatasetSource(dataset, size, KEYS.order).batches(epoch * 6, n)


def take(gan, config, dataset, state, end, at_most):
    """Take a run's steps until `end`, in chunks of at most `at_most`: the state and the losses."""
    source = DatasetSource(dataset, config.batch_size, KEYS.order)
    runner, step, parts = ChunkRunner(gan, source, KEYS.steps, config), int(state.step), []
    while step < end:
        left = source.steps_per_epoch - step % source.steps_per_epoch
        chunk = runner.run(state, step, min(at_most, left, end - step))
        state, step = chunk.state, step + len(chunk.losses)
        parts.append(chunk.losses)
    return state, np.concatenate(parts)


def assert_trees_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def assert_trees_close(one, other, atol):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=atol), one, other)


# Steps one by one


def test_a_chunk_of_steps_is_the_steps_one_by_one(gan, config, tiny_dataset, init):
    """Bitwise, over an epoch's end and its smaller last batch."""
    run = partial(take, gan, config, tiny_dataset)
    whole, whole_losses = run(init(KEYS.init), 9, at_most=100)
    single, single_losses = run(init(KEYS.init), 9, at_most=1)
    assert_trees_equal(whole, single)
    np.testing.assert_array_equal(whole_losses, single_losses)
    assert whole.step == len(whole_losses) == 9


def test_the_loop_is_train_step_with_the_clocks_keys_and_order(gan, config, tiny_dataset, init):
    """The same as calling train_step with fold_in(keys.steps, step) on the permuted batches."""
    step, losses = jax.jit(train_step, static_argnames="gan"), []
    expected = init(KEYS.init)
    for s in range(7):
        order = random.permutation(random.fold_in(KEYS.order, s // 6), 22)
        rows = np.asarray(order[(s % 6) * 4 :][:4])
        batch = Batch(tiny_dataset.images[rows], tiny_dataset.labels[rows])
        expected, now = step(gan, expected, batch, random.fold_in(KEYS.steps, s))
        losses.append(now)
    looped, loop_losses = take(gan, config, tiny_dataset, init(KEYS.init), 7, at_most=100)
    np.testing.assert_allclose(loop_losses, np.array(losses), rtol=1e-5)
    assert_trees_close(looped.disc.params, expected.disc.params, 1e-5)


@pytest.mark.parametrize("every", [1, 3])
def test_run_steps_takes_train_step_again_and_again(every, gan, tiny_dataset, init):
    """As many of the steps as are asked for; the other losses stay zero."""
    gan = rare(gan, every) if every > 1 else gan
    step, many = (jax.jit(f, static_argnames="gan") for f in (train_step, run_steps))
    state, batches = init(KEYS.init), batches_of(tiny_dataset, 5)
    after, filled = many(gan, state, batches, KEYS.steps, 4)
    rows = []
    for i in range(4):
        batch = Batch(batches.images[i], batches.labels[i])
        state, losses = step(gan, state, batch, random.fold_in(KEYS.steps, i))
        rows.append(losses)
    assert after.step == 4
    losses = np.stack(filled, axis=-1)
    np.testing.assert_allclose(losses[:4], np.array(rows), rtol=1e-5)
    assert not losses[4:].any()
    for net in ("gen", "disc"):
        one, other = (getattr(each, net).opt_state[0].mu for each in (after, state))
        assert_trees_close(one, other, 1e-6)


@pytest.mark.usefixtures("as_outside_of_tests")
@pytest.mark.parametrize("every", first_fast(2, 1, 4))
def test_a_known_number_of_steps_gives_the_same(every, gan, tiny_dataset, init):
    """Bitwise: all steps, in groups of which the first has the penalty, against one by one."""
    gan = rare(gan, every) if every > 1 else gan
    batches, run = batches_of(tiny_dataset, 4), compiled_steps()
    start = every if every < 4 else 0
    states = [init(KEYS.init).replace(step=jnp.int32(start)) for _ in range(2)]
    one = run(gan, states[0], batches, KEYS.steps, 4)
    other = run(gan, states[1], batches, KEYS.steps, None)
    assert one[0].step == start + 4
    assert_trees_equal(one, other)


def test_groups_must_be_whole(gan, tiny_dataset, init):
    batches = batches_of(tiny_dataset, 5)
    with pytest.raises(ConfigError, match=r"5 batches.* every 4th step\nexpected a multiple of 4"):
        jax.eval_shape(partial(run_steps, rare(gan)), init(KEYS.init), batches, KEYS.steps)


def test_run_steps_may_be_vmapped_over_seeds(gan, tiny_dataset, init):
    """Each run with keys of its own."""
    batches, seeds = batches_of(tiny_dataset, 3), jnp.arange(2)
    keys = jax.vmap(lambda seed: random.fold_in(KEYS.steps, seed))(seeds)
    states = jax.vmap(gan.init)(keys)
    every_run = jax.jit(jax.vmap(partial(run_steps, gan), in_axes=(0, None, 0)))
    after, losses = every_run(states, batches, keys)
    assert losses.d_loss.shape == (2, 3)
    for i in range(2):
        alone, own = jax.jit(partial(run_steps, gan))(init(keys[i]), batches, keys[i])
        assert_trees_close(jax.tree.map(lambda leaf, i=i: leaf[i], losses), own, 1e-5)
        moments = jax.tree.map(lambda leaf, i=i: leaf[i], after.disc.opt_state[0].mu)
        assert_trees_close(moments, alone.disc.opt_state[0].mu, 1e-5)
    assert np.ptp(losses.d_loss[:, 0]) > 1e-4


# The same bits whatever the chunks are


class Recorder(Callback):
    """Keeps the length of each chunk, and all losses."""

    def __init__(self):
        self.lengths, self.losses = [], []

    def on_chunk_end(self, chunk):
        self.lengths.append(len(chunk.losses))
        self.losses += chunk.losses.tolist()


@pytest.fixture(scope="module")
def long_dataset():
    """162 images: 41 steps an epoch, the last of 2 images."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (162, 4, 4, 1), np.uint8)
    return Dataset.from_arrays(images, rng.integers(0, 3, 162), ("a", "b", "c"))


@pytest.fixture
def run_in_chunks(config, long_dataset, monkeypatch):
    """Trains two epochs in chunks of some length: on a CPU, or as a GPU does."""

    def run(gan, length, backend="cpu", stop_after=()):
        bytes_of_images = length * 4 * 16
        recorder, state = Recorder(), None
        with monkeypatch.context() as patched:
            patched.setattr(chunks, "CHUNK_SECONDS", 1e9)
            patched.setattr(chunks, "CHUNK_BYTES", bytes_of_images)
            patched.setattr(chunks, "DEVICE_CHUNK_BYTES", bytes_of_images)
            patched.setattr(jax, "default_backend", lambda: backend)
            for n in (*stop_after, 10**9):
                stop = StopAfter(n)
                state = train(
                    gan,
                    replace(config, epochs=2),
                    long_dataset,
                    state=state,
                    callbacks=[recorder, stop],
                )
        assert max(recorder.lengths) <= length
        return state, recorder

    return run


@pytest.mark.usefixtures("as_outside_of_tests")
@pytest.mark.parametrize(
    ("length", "backend", "every"),
    first_fast(
        *((3, "cpu", 4), (1, "cpu", 4), (4, "cpu", 4), (37, "cpu", 4), (3, "cpu", 1)),
        *((37, "gpu", 4), (1, "gpu", 4), (3, "gpu", 4), (4, "gpu", 4), (37, "gpu", 1)),
    ),
)
def test_the_bits_do_not_depend_on_the_chunks(length, backend, every, gan, run_in_chunks):
    """With a smaller last batch, epochs that begin in the middle of a group of steps of which one
    has the penalty, and stops within such groups: after 17 steps or more, and 10 later."""
    gan = rare(gan, every) if every > 1 else gan
    expected, whole = run_in_chunks(gan, 41)
    state, recorder = run_in_chunks(gan, length, backend, stop_after=(17, 10))
    assert sum(recorder.lengths) == 82
    assert len(recorder.lengths) >= 82 / length
    assert recorder.losses == whole.losses
    assert_trees_equal(state, expected)


def test_a_gpu_takes_an_epoch_in_few_pieces(gan, config, tiny_dataset, monkeypatch):
    """Whole groups in one piece; single steps before and after it, with or without the penalty."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    source = DatasetSource(tiny_dataset, 4, KEYS.order, placement="device")
    pieces = []
    for every in (1, 2, 4):
        own = rare(gan, every) if every > 1 else gan
        runner = ChunkRunner(own, source, KEYS.steps, config)
        assert runner.length == runner.capacity == 6
        for step in (6, 7):
            batches = source.batches(step, 12 - step)
            pieces.append(
                [
                    (n, "due" if p["gan"].penalty else "plain", p["n_steps"])
                    for p, n in runner._pieces(step, batches)
                ]
            )
    plain, due = (1, "plain", None), (1, "due", None)
    assert pieces == [
        [(5, "plain", None)],
        [(4, "plain", None)],
        [(4, "due", None), due],
        [plain, (2, "due", None), due],
        [plain, plain, due, plain, plain],
        [plain, due, plain, plain],
    ]


def test_one_trace_for_all_chunks(gan, config, tiny_dataset, init, monkeypatch):
    """Two for a run: batches of the full size, and the smaller last ones."""
    traces = []

    @wraps(run_steps)  # jit finds the static arguments by the signature
    def counted(*args, **kwargs):
        traces.append(kwargs["batches"].labels.shape)
        return run_steps(*args, **kwargs)

    counted = jax.jit(counted, static_argnames=["gan", "step"], donate_argnames="state")
    monkeypatch.setattr(chunks, "compiled_steps", lambda *_: counted)
    state = init(KEYS.init)
    for end, at_most in ((6, 5), (12, 1), (18, 2)):
        state, _ = take(gan, config, tiny_dataset, state, end, at_most)
    assert traces == [(6, 4), (6, 2)]


@pytest.mark.slow
@ON_A_CPU
def test_kernels_and_moments_are_updated_in_place(gan, config, tiny_dataset):
    """Copies of them in the loop took a tenth of a step."""
    source = DatasetSource(tiny_dataset, 4, KEYS.order)
    arguments = {"batches": source.batches(0, 5), "key": KEYS.steps, "n_steps": 5}
    state = jax.eval_shape(gan.init, KEYS.init)

    def copies(compiled):
        text = compiled.lower(gan=gan, state=state, **arguments).compile().as_text()
        return [
            line for line in text.splitlines() if re.search(r"= f32\[\d+,\d+\]\S* copy\(", line)
        ]

    assert len(copies(compiled_steps())) < 3
    without = jax.jit(run_steps, static_argnames=["gan", "step"], donate_argnames="state")
    assert len(copies(without)) > 6  # else the option is no longer needed


def test_a_step_of_ones_own_is_run(config, gan, tiny_dataset):
    """On a CPU and as on a GPU; it is given the GAN, and the clock's key."""

    def own(gan, state, batch, key):
        losses = random.uniform(key), batch.labels.mean()
        return state.replace(step=state.step + 1), Losses(*losses)

    expected = [random.uniform(random.fold_in(KEYS.steps, step)) for step in range(6)]
    for backend in ("cpu", "gpu"):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(jax, "default_backend", lambda backend=backend: backend)
            source = DatasetSource(tiny_dataset, 4, KEYS.order)
            runner = ChunkRunner(gan, source, KEYS.steps, config, own)
            chunk = runner.run(jax.jit(gan.init)(KEYS.init), 0, 6)
        assert chunk.losses.dtype == np.float32
        np.testing.assert_allclose(chunk.losses[:, 0], expected, rtol=1e-6)


# What is checked


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_that_the_generator_lacks_are_refused(label, gan, tiny_config):
    """JAX would take the last class for both of them."""
    batch = np.zeros((4, 4, 4, 1), np.uint8), np.array([0, 1, 2, label])
    words = rf"labels from {min(label, 0)} to {max(label, 2)}\nexpected 0 to 2\nCount"
    with pytest.raises(DataError, match=words):
        train(gan, tiny_config, [batch])


def test_what_is_finite(monkeypatch):
    """Keys are no numbers; computed on the host, and on a GPU by a program."""
    good = {
        "a": jnp.ones(3),
        "n": jnp.arange(2),
        "key": random.key(0),
        "b": jnp.ones((), "bfloat16"),
    }
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        assert is_finite(good)
        for wrong in (np.nan, np.inf, -np.inf):
            assert not is_finite(good | {"a": jnp.array([1, wrong])})
