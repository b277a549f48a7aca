"""What a callback may do: replace the state, measure, end training."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cgan_jax import Checkpoints, Losses, train
from cgan_jax.callbacks import StopWhen
from cgan_jax.errors import ConfigError
from cgan_jax.training.callbacks import Callback
from cgan_jax.training.gan import GAN
from cgan_jax.training.loop import fresh_state
from cgan_jax.training.step import run_keys


def count(gan, state, batch, key):
    """In the place of a training step: one more, and G's last bias moves by one."""
    kernel_and_bias = state.gen.params["output"]
    moved = kernel_and_bias | {"bias": kernel_and_bias["bias"] + 1}
    gen = state.gen.replace(params=state.gen.params | {"output": moved})
    mean = batch.images.astype(jnp.float32).mean()
    return state.replace(step=state.step + 1, gen=gen), Losses(mean, mean)


@pytest.fixture(scope="module")
def gan(tiny_config):
    return GAN.from_config(tiny_config)


@pytest.fixture
def run(gan, tiny_config, tiny_dataset):
    """Trains 3 epochs of 6 steps."""
    return partial(train, gan, tiny_config, tiny_dataset, step=count)


def bias(state):
    return np.asarray(state.gen.params["output"]["bias"])


def with_bias(state, change):
    """A state with another last bias of G."""
    output = state.gen.params["output"]
    params = state.gen.params | {"output": output | {"bias": change(output["bias"])}}
    return state.replace(gen=state.gen.replace(params=params))


def renamed(params):
    """The same arrays, of which one layer has another name."""
    return {name.replace("output", "outputs"): layer for name, layer in params.items()}


def callback(**hooks):
    """A callback with these hooks."""
    made = Callback()
    for name, hook in hooks.items():
        assert hasattr(Callback, name)
        setattr(made, name, hook)
    return made


# A state


def test_training_goes_on_with_the_state_that_a_callback_returns(run):
    """So do the callbacks behind it. Here G's last bias is doubled at the end of each epoch."""
    seen = []
    double = callback(on_epoch_end=lambda end: with_bias(end.state, lambda b: 2 * b))
    look = callback(on_epoch_end=lambda end: seen.append(bias(end.state)))
    state = run(callbacks=[double, look])
    start = float(bias(fresh_state_of(run))[0])
    expected = [start := 2 * (start + 6) for _ in range(3)]
    np.testing.assert_allclose(np.array(seen)[:, 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(bias(state), seen[-1])


def fresh_state_of(run):
    return fresh_state(run.args[0], run_keys(run.args[1].seed).init)


def test_measures_and_checkpoints_are_of_the_state_that_a_callback_returns(run, tmp_path):
    """After a chunk it is there for the epoch's end; after the epoch for the checkpoint."""
    measured, steps = [], []

    def fix(value, event):
        steps.append(event.step)
        return with_bias(event.state, lambda b: jnp.full_like(b, value))

    callbacks = [
        callback(measure=lambda end: measured.append(bias(end.state)[0]) or {}),
        callback(on_chunk_end=partial(fix, 40.0), on_epoch_end=partial(fix, 50.0)),
    ]
    with Checkpoints(tmp_path) as checkpoints:
        state = run(callbacks=callbacks, checkpoints=checkpoints, checkpoint_every=1)
        saved = checkpoints.restore(jax.eval_shape(lambda: state), at_most=6)
    assert measured == [40.0] * 3
    assert bias(saved)[0] == bias(state)[0] == 50.0
    assert steps.count(6) == steps.count(12) == steps.count(18) == 2


def test_a_callback_keeps_the_arrays_that_it_returned(run):
    """The next step is given copies. It may even return one array in two places."""
    kept = []

    def share(end):
        adam, *rest = end.state.gen.opt_state
        output = adam.mu["output"] | {"bias": end.state.gen.params["output"]["bias"]}
        opt_state = (adam._replace(mu=adam.mu | {"output": output}), *rest)
        kept.append(end.state.replace(gen=end.state.gen.replace(opt_state=opt_state)))
        return kept[-1]

    state = run(callbacks=[callback(on_epoch_end=share)])
    assert len(kept) == 3
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(kept))
    np.testing.assert_array_equal(bias(kept[0]) + 12, bias(state))


@pytest.mark.parametrize("hook", ["on_chunk_end", "on_epoch_end"])
@pytest.mark.parametrize(
    "wrong",
    [
        lambda state: with_bias(state, lambda b: b[:0]),
        lambda state: with_bias(state, lambda b: b.astype(jnp.float16)),
        lambda state: state.replace(gen=state.gen.replace(params=renamed(state.gen.params))),
        lambda state: state.replace(extra=jnp.zeros(())),
        lambda state: state.gen,
        lambda state: "state",
    ],
    ids=["shape", "dtype", "name", "extra", "part", "text"],
)
def test_a_state_with_other_arrays_is_refused(wrong, hook, run):
    class Own(Callback):
        pass

    own = Own()
    setattr(own, hook, lambda event: wrong(event.state))
    words = rf"Own.{hook} returned .*\nexpected None, or a state with the same arrays.*\nReturn"
    with pytest.raises(ConfigError, match=words):
        run(callbacks=[own])


def test_a_callback_changes_the_learning_rate(gan, tiny_config, tiny_dataset):
    """In the optimizer's state; here to nothing after the first epoch."""
    gan = GAN(
        gan.generator,
        gan.discriminator,
        optax.inject_hyperparams(optax.sgd)(learning_rate=0.1),
        optax.sgd(0.1),
    )
    states = []

    def stop_generator(end):
        states.append(jax.device_get((end.state.gen.params, end.state.disc.params)))
        before = end.state.gen.opt_state
        rates = before.hyperparams | {"learning_rate": jnp.zeros_like(before.count, float)}
        gen = end.state.gen.replace(opt_state=before._replace(hyperparams=rates))
        return end.state.replace(gen=gen)

    train(gan, tiny_config, tiny_dataset, callbacks=[callback(on_epoch_end=stop_generator)])
    (gen, disc), (same, other), _ = states
    jax.tree.map(np.testing.assert_array_equal, gen, same)
    assert (disc["output"]["bias"] != other["output"]["bias"]).all()
    assert (gen["output"]["bias"] != bias(fresh_state(gan, run_keys(0).init))).any()


# Measures


def test_all_callbacks_get_the_measures_of_all(run):
    """Wherever they stand; all are taken before the first hook is called."""
    calls = []

    def measuring(name):
        def measure(end):
            calls.append(("measure", name, end.epoch, dict(end.measures)))
            return {name: 10.0 * end.epoch}

        def on_epoch_end(end):
            calls.append(("end", name, end.epoch, dict(end.measures)))

        return callback(measure=measure, on_epoch_end=on_epoch_end)

    run(callbacks=[measuring("a"), measuring("b")])
    expected = []
    for epoch in (1, 2, 3):
        both = {"a": 10.0 * epoch, "b": 10.0 * epoch}
        expected += [("measure", name, epoch, {}) for name in "ab"]
        expected += [("end", name, epoch, both) for name in "ab"]
    assert calls == expected


def test_without_measures_there_are_none(run):
    seen = []
    run(callbacks=[callback(on_epoch_end=lambda end: seen.append(dict(end.measures)))])
    assert seen == [{}] * 3


# The end


def test_a_callback_ends_training(run, tmp_path):
    """After a chunk, which is saved; the run goes on from there."""
    ends, steps = [], []
    stopping = callback(
        on_chunk_end=lambda chunk: steps.append(chunk.step),
        should_stop=lambda: bool(steps) and steps[-1] >= 8,
        on_train_end=lambda end: ends.append((end.step, int(end.state.step))),
    )
    with Checkpoints(tmp_path) as checkpoints:
        state = run(callbacks=[Callback(), stopping], checkpoints=checkpoints)
        step = int(state.step)
        assert 8 <= step < 18
        assert checkpoints.latest() == step
        assert ends == [(step, step)]
        assert run(checkpoints=checkpoints).step == 18


def test_stop_when_a_condition_is_true(run):
    """Asked before the first chunk and after each one."""
    asked = []
    assert run(callbacks=[StopWhen(lambda: asked.append(1) or len(asked) == 2)]).step == 1
    assert run(callbacks=[StopWhen(lambda: True)]).step == 0
    assert run(callbacks=[StopWhen(lambda: False)]).step == 18
