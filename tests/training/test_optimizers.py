"""Adam against the textbook in float64, and against Optax's."""

from dataclasses import astuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cgan_jax.config import OptimizerConfig
from cgan_jax.training.optimizers import adam


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
    path, _ = walk(adam(*astuple(config)), GRADS)
    moves, expected = np.diff(path, prepend=0), np.diff(list(textbook(GRADS, config)), prepend=0)
    np.testing.assert_allclose(moves, expected, rtol=2e-6, atol=2e-6)


def test_first_step_is_exact():
    """It is lr * g / (|g| + eps); Optax's differs in the sixth digit."""
    config = OptimizerConfig()
    ours, _ = walk(adam(*astuple(config)), [0.3])
    theirs, _ = walk(optax.adam(*astuple(config)), [0.3])
    assert ours[0] == pytest.approx(-2e-4, rel=3e-7)
    assert theirs[0] != pytest.approx(-2e-4, rel=3e-6)


def test_state_is_interchangeable_with_optax():
    """Same tree, same moments: either can restore the other's checkpoint."""
    config = OptimizerConfig()
    _, ours = walk(adam(*astuple(config)), GRADS)
    _, theirs = walk(optax.adam(*astuple(config)), GRADS)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)
