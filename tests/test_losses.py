"""The adversarial losses, against values computed by hand."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgan_jax.config import LossName
from cgan_jax.losses import LOSSES

REAL, FAKE = jnp.array([0.0, 1.0, 3.0]), jnp.array([0.0, 2.0, -1.0])
LOG2 = np.log(2)

BY_HAND = {
    "least_squares": ([0.5, 2.0, 2.5], [1.0, 1.0, 4.0]),
    "non_saturating": (
        [2 * LOG2, np.log1p(np.exp(-1)) + np.log1p(np.exp(2)), 2 * 0 + 0.04858735 + 0.31326169],
        [LOG2, np.log1p(np.exp(-2)), np.log1p(np.exp(1))],
    ),
    "hinge": ([2.0, 3.0, 0.0], [0.0, -2.0, 1.0]),
    # log(1 + e^(D(G(z)) - D(x))) with differences of 0, 1 and -4; the generator's mirror it.
    "relativistic": (
        [LOG2, np.log1p(np.exp(1)), np.log1p(np.exp(-4))],
        [LOG2, 0.31326169, 4.01815],
    ),
    "wasserstein": ([0.0, 1.0, -4.0], [0.0, -2.0, 1.0]),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name):
    discriminator, generator = BY_HAND[name]
    loss = LOSSES[name]
    np.testing.assert_allclose(loss.discriminator(REAL, FAKE), discriminator, rtol=1e-6)
    scores = (REAL, FAKE) if loss.paired else (FAKE,)
    np.testing.assert_allclose(loss.generator(*scores), generator, rtol=1e-6)


@pytest.mark.parametrize("name", BY_HAND)
def test_finite_at_extreme_scores(name):
    """Also the gradients, at scores that overflow a naive logarithm of a sigmoid."""
    loss, scores = LOSSES[name], jnp.array([-1e4, 0.0, 1e4])
    value, grads = jax.value_and_grad(lambda s: loss.discriminator(s, -s).sum())(scores)
    assert jnp.isfinite(value)
    assert jnp.isfinite(grads).all()
    reals = (-scores,) if loss.paired else ()
    value, grads = jax.value_and_grad(lambda s: loss.generator(*reals, s).sum())(scores)
    assert jnp.isfinite(value)
    assert jnp.isfinite(grads).all()


def test_every_loss_has_a_name_for_configurations_and_a_test():
    assert set(get_args(LossName)) == set(LOSSES) == set(BY_HAND)
