"""Adam against the textbook in float64, Optax's and PyTorch's; its schedules by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cgan_jax.config import OptimizerConfig
from cgan_jax.errors import ConfigError
from cgan_jax.training.optimizers import adam_from_config
from cgan_jax.training.schedules import schedule


def textbook(grads, config):
    """Algorithm 1 of Kingma and Ba 2015, one parameter from zero, in Python's float64."""
    m = v = p = 0.0
    for t, g in enumerate(grads, start=1):
        m = config.b1 * m + (1 - config.b1) * g
        v = config.b2 * v + (1 - config.b2) * g**2
        p -= config.lr * (m / (1 - config.b1**t)) / ((v / (1 - config.b2**t)) ** 0.5 + config.eps)
        yield p


def walk(optimizer, grads):
    """The parameter after each step, and the last state."""
    params = {"w": jnp.zeros(())}
    state, path = optimizer.init(params), []
    update = jax.jit(optimizer.update)
    for g in grads:
        updates, state = update({"w": jnp.float32(g)}, state, params)
        params = optax.apply_updates(params, updates)
        path.append(float(params["w"]))
    return np.array(path), state


GRADS = np.random.default_rng(0).standard_normal(30) * np.logspace(-6, 2, 30)


@pytest.mark.parametrize("b2", [0.999, 0.9999])
@pytest.mark.parametrize("b1", [0.0, 0.5, 0.9])
def test_steps_match_the_textbook(b1, b2):
    """To 2e-6 of a step; with Optax's bias correction the first steps are off by 1e-5."""
    config = OptimizerConfig(lr=1.0, b1=b1, b2=b2)
    path, _ = walk(adam_from_config(config), GRADS)
    moves, expected = np.diff(path, prepend=0), np.diff(list(textbook(GRADS, config)), prepend=0)
    np.testing.assert_allclose(moves, expected, rtol=2e-6, atol=2e-6)


def test_first_step_is_exact():
    """It is lr * g / (|g| + eps); Optax's differs in the sixth digit."""
    config = OptimizerConfig()
    ours, _ = walk(adam_from_config(config), [0.3])
    theirs, _ = walk(optax.adam(config.lr, config.b1, config.b2, config.eps), [0.3])
    assert ours[0] == pytest.approx(-2e-4, rel=3e-7)
    assert theirs[0] != pytest.approx(-2e-4, rel=3e-6)


def test_state_is_interchangeable_with_optax():
    """Same tree, same moments: either can restore the other's checkpoint."""
    config = OptimizerConfig()
    _, ours = walk(adam_from_config(config), GRADS)
    _, theirs = walk(optax.adam(config.lr, config.b1, config.b2, config.eps), GRADS)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)
    changing = OptimizerConfig(lr_end=0.0, b2_end=0.9)
    _, ours = walk(adam_from_config(changing, schedule_steps=20), GRADS)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    assert jax.tree.map(jax.typeof, ours) == jax.tree.map(jax.typeof, theirs)


# Schedules


def settings(from_torch, curve):
    """The stored settings of a case, and over how many steps they change."""
    names = ("lr", "lr_end", "b1", "b2", "b2_end")
    values = {name: float(from_torch[f"adam.{name}"]) for name in names}
    if curve == "constant":
        return OptimizerConfig(**values | {"lr_end": None, "b2_end": None}), None
    return OptimizerConfig(**values, schedule=curve), int(from_torch["adam.schedule_steps"])


@pytest.mark.parametrize("curve", ["constant", "linear", "cosine", "cooldown"])
def test_fifty_steps_match_pytorch(from_torch, curve):
    """In float64; there `lr` and `betas` were set before each step."""
    grads = from_torch["adam.grads"]
    with jax.enable_x64(True):
        optimizer = adam_from_config(*settings(from_torch, curve))
        params = jnp.zeros(4)
        state, update, path = optimizer.init(params), jax.jit(optimizer.update), []
        for grad in grads:
            updates, state = update(jnp.asarray(grad), state)
            params = optax.apply_updates(params, updates)
            path.append(params)
    assert len(path) == 50
    np.testing.assert_allclose(path, from_torch[f"adam.{curve}"], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("curve", "values"),
    [("linear", [2, 1.75, 1.5, 1.25, 1, 1, 1]), ("cosine", [2, 1.853553, 1.5, 1.146447, 1, 1, 1])],
)
def test_schedules_by_hand(curve, values):
    """From the first step's value on, and constant at the end; upwards too."""
    counts = (0, 2, 4, 6, 8, 9, 2**31 - 1)
    down, up = schedule("lr", 2.0, 1.0, 8, curve), schedule("lr", 1.0, 2.0, 8, curve)
    np.testing.assert_allclose([down(jnp.int32(c)) for c in counts], values, rtol=1e-6)
    np.testing.assert_allclose([3 - up(jnp.int32(c)) for c in counts], values, rtol=1e-6)
    assert down(8) == 1


def test_a_cooldown_is_a_cosine_in_the_last_fifth():
    """Constant before it; where a fifth is less than a step, in the last step."""
    way = schedule("lr", 2.0, 1.0, 20, "cooldown")
    counts = jnp.array([0, 15, 16, 17, 18, 20, 21])
    np.testing.assert_allclose(way(counts), [2, 2, 2, 1.853553, 1.5, 1, 1], rtol=1e-6)
    short = schedule("lr", 2.0, 1.0, 3, "cooldown")
    np.testing.assert_array_equal(short(jnp.arange(5)), [2, 2, 2, 1, 1])


def test_a_learning_rate_of_a_sweep_has_a_schedule_too():
    """Traced, under jit; members differ in it."""
    config = OptimizerConfig(lr=0.3, lr_end=0.1, b2_end=0.9)

    @jax.jit
    def last(lr, b1):
        path = jnp.zeros(())
        optimizer = adam_from_config(config, 10, lr=lr, b1=b1)
        state = optimizer.init(path)
        for g in GRADS:
            updates, state = optimizer.update(jnp.float32(g), state)
            path += updates
        return path

    own = OptimizerConfig(lr=0.7, b1=0.8, lr_end=0.1, b2_end=0.9)
    expected = walk(adam_from_config(own, 10), GRADS)[0][-1]
    np.testing.assert_allclose(last(jnp.float32(0.7), jnp.float32(0.8)), expected, rtol=1e-5)


def test_a_change_of_b2_alone_or_lr_alone_is_one():
    fixed, *others = (
        walk(adam_from_config(OptimizerConfig(**ends), 10), GRADS)[0][-1]
        for ends in ({}, {"lr_end": 0.0}, {"b2_end": 0.5}, {"lr_end": 0.0, "b2_end": 0.5})
    )
    assert len({float(fixed), *map(float, others)}) == 4


@pytest.mark.parametrize("setting", ["lr", "b2"])
def test_a_changing_setting_needs_the_number_of_steps(setting):
    config = OptimizerConfig(**{f"{setting}_end": 0.1})
    message = rf"{setting} changes during training\n.*\nCall config.for_data\(dataset\)"
    with pytest.raises(ConfigError, match=message):
        adam_from_config(config)
