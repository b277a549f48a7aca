"""Penalties and their gradients against PyTorch's in float64; their weights by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax, random
from jax.nn import leaky_relu, softplus

from cgan_jax.config import PenaltyConfig
from cgan_jax.errors import ConfigError
from cgan_jax.training.penalties import (
    PENALTIES,
    WeightedPenalty,
    penalty_from_config,
    r1,
    wgan_gp,
)

KEY = random.key(0)
PARAMS = ("kernel", "hidden", "label", "output")


def discriminator(params, images, labels):
    """That of tests/golden/make_parts.py."""
    layout = ("NHWC", "HWIO", "NHWC")
    x = lax.conv_general_dilated(images, params["kernel"], (1, 1), "SAME", dimension_numbers=layout)
    flat = leaky_relu(x, 0.2).reshape(len(x), -1)
    return softplus(flat @ params["hidden"] + params["label"][labels]) @ params["output"]


def augmented(images):
    return 0.7 * images[:, :, ::-1] + 0.2 * images**2


def linear(slope):
    """A discriminator whose gradient is the label times `slope` at every pixel."""
    return lambda images, labels: slope * (images * labels[:, None, None, None]).sum((1, 2, 3))


def halves(n=2, size=(2, 3, 1)):
    """Real images with labels 1, fakes with labels 2."""
    images = random.uniform(KEY, (2, n, *size), minval=-1)
    labels = jnp.repeat(jnp.arange(1, 3)[:, None], n, axis=1)
    return tuple(zip(images, labels, strict=True))


def value(penalty, score=None, step=0, data=None):
    return penalty(score or linear(0.5), *(data or halves()), step=jnp.int32(step), key=KEY)


# Against PyTorch


@pytest.mark.parametrize("suffix", ["", ".augmented"])
@pytest.mark.parametrize("name", PENALTIES)
def test_value_and_gradients_match_pytorch(from_torch, monkeypatch, name, suffix):
    """By D's parameters, with `torch.autograd` and `create_graph` on the other side."""
    monkeypatch.setattr(random, "uniform", lambda *args: jnp.asarray(from_torch["share"]))
    augment = augmented if suffix else lambda images: images
    with jax.enable_x64(True):
        real, fake = (
            (jnp.asarray(from_torch[images]), jnp.asarray(from_torch[labels]))
            for images, labels in (("real", "labels"), ("fake", "fake_labels"))
        )

        @jax.jit
        @jax.value_and_grad
        def penalty(params):
            def score(images, labels):
                return discriminator(params, augment(images), labels)

            return PENALTIES[name](score, real, fake, step=jnp.int32(0), key=KEY)

        given = {param: jnp.asarray(from_torch[f"param.{param}"]) for param in PARAMS}
        result, grads = penalty(given)
    expected = from_torch[name + suffix]
    assert expected > 0.01
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-9)
    for param, grad in grads.items():
        expected = from_torch[f"{name}{suffix}.grad.{param}"]
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(grad, expected, rtol=0, atol=1e-9)


# By hand


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Six pixels, each with a gradient of 0.5 where real and of 1.0 where fake.
        ("r1", 6 * 0.25 / 2),
        ("r2", 6 * 1.0 / 2),
        ("r1_r2", 6 * 1.25 / 2),
        ("wgan_gp", (np.sqrt(6 * 0.25) - 1) ** 2),
    ],
)
def test_by_hand(name, expected):
    """Each half with its own labels, summed over pixels, a mean over images."""
    for n in (2, 5):
        result = value(PENALTIES[name], data=halves(n))
        assert result == pytest.approx(expected, rel=1e-6)
        assert result.dtype == jnp.float32


def test_wgan_gp_takes_a_point_between_each_pair():
    """Between 3 and -1, uniformly, each pair its own, with the label of the real image."""
    seen = []

    def score(images, labels):
        jax.debug.callback(lambda *given: seen.append(given), images, labels)
        return linear(1.0)(images, labels)

    real, fake = jnp.full((500, 1, 1, 1), 3.0), jnp.full((500, 1, 1, 1), -1.0)
    value(wgan_gp, score, data=((real, jnp.ones(500, int)), (fake, jnp.zeros(500, int))))
    jax.effects_barrier()
    ((points, labels),) = seen
    assert -1 <= points.min() < -0.9
    assert 2.9 < points.max() <= 3
    assert abs(points.mean() - 1) < 0.2
    assert len(np.unique(points)) > 450
    assert labels.all()


def test_wgan_gp_is_finite_where_the_gradient_is_zero():
    result, grad = jax.value_and_grad(lambda slope: value(wgan_gp, linear(slope)))(0.0)
    assert result == 1
    assert grad == 0


# The weight


def test_gamma_is_a_factor():
    assert value(WeightedPenalty(r1, 10.0)) == pytest.approx(10 * value(r1))


def test_a_rare_penalty_counts_more():
    """In which steps: test_extensions.py."""
    assert value(WeightedPenalty(r1, 2.0, every=3)) == pytest.approx(6 * value(r1))


def test_gamma_changes_on_a_cosine_and_then_stays():
    penalty = WeightedPenalty(r1, 2.0, gamma_end=0.5, schedule_steps=8, every=2)
    weights = [value(penalty, step=step) / value(r1) / 2 for step in (0, 2, 4, 6, 8, 10, 1000)]
    expected = [2, 0.5 + 0.75 * (1 + 0.5**0.5), 1.25, 0.5 + 0.75 * (1 - 0.5**0.5), 0.5, 0.5, 0.5]
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


# From a configuration


def test_from_a_configuration():
    config = PenaltyConfig("wgan_gp", 10.0, every=5)
    assert penalty_from_config(config) == WeightedPenalty(wgan_gp, 10.0, every=5)
    assert penalty_from_config(PenaltyConfig("none", 1.0)) is None
    assert set(PENALTIES) == {"r1", "r2", "r1_r2", "wgan_gp"}


def test_equal_configurations_share_one_program():
    """Penalties are static under jit; a constant one does not depend on the length of the run."""
    one, other = (penalty_from_config(PenaltyConfig("r1"), n) for n in (10, 20))
    assert one == other
    assert hash(one) == hash(other)
    changing = PenaltyConfig("r1", gamma_end=0.0)
    one, other = (penalty_from_config(changing, n) for n in (10, 20))
    assert one != other


def test_a_changing_weight_needs_the_number_of_steps():
    with pytest.raises(ConfigError, match=r"gamma changes.*\n.*\nCall config.for_data\(dataset\)"):
        penalty_from_config(PenaltyConfig("r1", gamma_end=0.1))


@pytest.mark.parametrize("wrong", [{"gamma": -1}, {"gamma_end": -1}, {"every": 0}])
def test_an_impossible_weight_is_refused(wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} must be"):
        WeightedPenalty(r1, schedule_steps=5, **wrong)
