"""The running average of the generator against Python's float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgan_jax.config import AverageConfig
from cgan_jax.errors import ConfigError
from cgan_jax.training.averaging import RampedAverage, average_from_config


def variables(value, dtype=None):
    """Parameters and statistics, the latter ten times as large."""
    return {
        "params": {"kernel": jnp.full((2, 3), value, dtype)},
        "batch_stats": {"mean": jnp.full(3, 10 * value, dtype)},
    }


def by_hand(values, batch_size, half_life, ramp):
    """The average after each step; the first value is the one before them."""
    average, *rest = values
    for step, value in enumerate(rest, start=1):
        now = half_life if ramp is None else min(half_life, ramp * step * batch_size)
        decay = 0.5 ** (batch_size / now)
        average = decay * average + (1 - decay) * value
        yield average


@pytest.mark.parametrize("ramp", [0.5, 0.05, None])
def test_every_step_matches_the_definition(ramp):
    """With a ramp of 0.5 the half-life is reached in the fifth step of seven."""
    values = np.random.default_rng(0).standard_normal(8)
    average = RampedAverage(batch_size=16, half_life=40.0, ramp=ramp)
    with jax.enable_x64(True):
        state = variables(values[0])
        for step, expected in enumerate(by_hand(values, 16, 40.0, ramp), start=1):
            state = average(state, variables(values[step]), jnp.int32(step))
            np.testing.assert_allclose(state["params"]["kernel"], expected, rtol=1e-12)
            np.testing.assert_allclose(state["batch_stats"]["mean"], 10 * expected, rtol=1e-12)
            assert state["params"]["kernel"].dtype == jnp.float64


def test_the_first_step_forgets_the_first_weights():
    """One batch seen, of which a twentieth is the half-life: 2**-20 of them stays."""
    state = RampedAverage(64)(variables(1.0), variables(0.0), jnp.int32(1))
    np.testing.assert_allclose(state["params"]["kernel"], 2.0**-20, rtol=0.1)


def test_a_weight_halves_in_the_half_life():
    average = RampedAverage(64, half_life=640, ramp=None)
    state = variables(1.0)
    for step in range(10):
        state = average(state, variables(0.0), jnp.int32(step + 1))
    np.testing.assert_allclose(state["params"]["kernel"], 0.5, rtol=1e-6)


def test_a_long_average_takes_its_share_to_rounding():
    """`1 - decay` in float32 would be off by 1e-3 of it here."""
    state = RampedAverage(64, half_life=1e6, ramp=None)(variables(0.0), variables(1.0), 10**9)
    np.testing.assert_allclose(state["params"]["kernel"], 1 - 0.5 ** (64 / 1e6), rtol=1e-6)


def test_the_images_seen_do_not_overflow():
    """2**31 images are 33 million steps."""
    step = jnp.int32(2**31 - 1)
    state = RampedAverage(64, half_life=1e6)(variables(0.0), variables(1.0), step)
    np.testing.assert_allclose(state["params"]["kernel"], 1 - 0.5 ** (64 / 1e6), rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dtypes_and_tree_stay(dtype):
    before = variables(1.0, dtype)
    after = RampedAverage(4)(before, variables(2.0, dtype), jnp.int32(3))
    assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, before)


def test_from_a_configuration():
    assert average_from_config(AverageConfig(), 64) is None
    one, other = (average_from_config(AverageConfig(True, 500, None), 32) for _ in range(2))
    assert one == other == RampedAverage(32, 500.0, None)
    assert hash(one) == hash(other)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"half_life": -1}, {"ramp": 0}])
def test_an_impossible_average_is_refused(wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} must be"):
        RampedAverage(**{"batch_size": 64} | wrong)
