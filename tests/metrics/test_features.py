"""Measures on features against their definitions, written as loops or in closed form."""

import numpy as np
import pytest

from cgan_jax.errors import ConfigError, DataError
from cgan_jax.metrics import frechet_distance, kernel_distance, manifold_measures

RNG = np.random.default_rng(0)


def gaussian(n, mean, deviations, seed):
    """Points with exactly this mean and unbiased covariance, on rotated axes."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, len(mean)))
    x -= x.mean(0)
    factor = np.linalg.cholesky(np.linalg.inv(x.T @ x / (n - 1)))
    return x @ factor * deviations @ ROTATION + mean


ROTATION, _ = np.linalg.qr(RNG.standard_normal((4, 4)))


def test_frechet_distance_of_gaussians_matches_the_closed_form():
    """|m|^2 + sum (s1 - s2)^2 if both covariances have the same axes."""
    mean = np.array([1.0, 2, 0, -1])
    real = gaussian(50, np.zeros(4), np.array([1, 2, 3, 0.5]), 1)
    fake = gaussian(80, mean, np.array([2, 2, 1, 0.1]), 2)
    expected = 6 + (1 + 0 + 4 + 0.16)
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(fake, real) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_matches_a_general_matrix_root():
    real, fake = RNG.standard_normal((30, 4)) @ RNG.random((4, 4)), RNG.standard_normal((40, 4))
    one, other = np.cov(real.T), np.cov(fake.T)
    roots = np.sqrt(np.linalg.eigvals(one @ other).real)
    expected = np.sum((real.mean(0) - fake.mean(0)) ** 2) + np.trace(one + other) - 2 * roots.sum()
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_a_set_with_singular_covariance_to_itself_is_zero():
    flat = np.concatenate([RNG.standard_normal((20, 3)), np.zeros((20, 2))], axis=1)
    assert frechet_distance(flat, flat) == pytest.approx(0, abs=1e-9)


def loops_mmd(x, y):
    """Equation 4 of Binkowski et al., pair by pair."""

    def k(a, b):
        return (a @ b / len(a) + 1) ** 3

    n = len(x)
    within = sum(k(p[i], p[j]) for p in (x, y) for i in range(n) for j in range(n) if i != j)
    between = sum(k(a, b) for a in x for b in y)
    return within / (n * (n - 1)) - 2 * between / n**2


def test_kernel_distance_matches_the_sum_over_pairs():
    x, y = RNG.standard_normal((12, 3)), RNG.standard_normal((12, 3)) + 0.5
    mean, deviation = kernel_distance(x, y, subsets=3, size=12)
    assert mean == pytest.approx(loops_mmd(x, y), rel=1e-9)
    assert deviation == pytest.approx(0, abs=1e-9)  # each subset is the whole set


def test_kernel_distance_is_unbiased():
    """For one distribution its mean is zero, and about half of the values are negative."""
    sets = [np.random.default_rng(i).standard_normal((40, 3)) for i in range(200)]
    distances = [
        kernel_distance(a, b, subsets=1, size=40)[0]
        for a, b in zip(sets[::2], sets[1::2], strict=True)
    ]
    assert abs(np.mean(distances)) < 3 * np.std(distances) / 10
    assert 20 < np.sum(np.array(distances) < 0) < 80


def test_kernel_distance_draws_its_subsets_from_the_seed():
    x, y = RNG.standard_normal((30, 3)), RNG.standard_normal((40, 3))
    first, again, other = (kernel_distance(x, y, subsets=2, size=10, seed=s) for s in (0, 0, 1))
    assert first == again != other


def loops_manifold(real, fake, k):
    """Each measure's definition, point by point."""

    def radius(points, i):
        others = [np.linalg.norm(points[i] - p) for j, p in enumerate(points) if j != i]
        return sorted(others)[k - 1]

    real_radii = [radius(real, i) for i in range(len(real))]
    fake_radii = [radius(fake, i) for i in range(len(fake))]
    d = np.array([[np.linalg.norm(r - f) for f in fake] for r in real])
    in_real = d <= np.array(real_radii)[:, None]
    in_fake = d <= np.array(fake_radii)
    return (
        np.mean([in_real[:, j].any() for j in range(len(fake))]),
        np.mean([in_fake[i].any() for i in range(len(real))]),
        in_real.sum() / (k * len(fake)),
        np.mean([in_real[i].any() for i in range(len(real))]),
    )


@pytest.mark.parametrize("k", [1, 3, 5])
def test_manifold_measures_match_their_definitions(k, monkeypatch):
    """For sets of different sizes, in several chunks."""
    monkeypatch.setattr("cgan_jax.metrics.manifold.CHUNK", 16)
    real, fake = RNG.standard_normal((50, 3)), RNG.standard_normal((41, 3)) * 0.7 + 0.8
    measures = manifold_measures(real, fake, k=k)
    assert measures == pytest.approx(loops_manifold(real, fake, k))
    assert len({round(value, 6) for value in measures}) == 4


def test_manifold_measures_of_distant_and_of_equal_sets():
    real = RNG.standard_normal((40, 3))
    assert manifold_measures(real, real + 1e3) == (0, 0, 0, 0)
    assert manifold_measures(real, real)[:2] == (1, 1)
    assert manifold_measures(real, real).coverage == 1


def test_a_collapsed_generator_has_precision_but_no_coverage():
    real = RNG.standard_normal((200, 3))
    fake = np.tile(real[:1], (200, 1))
    measures = manifold_measures(real, fake)
    assert measures.precision == 1
    assert measures.recall < 0.05
    assert measures.coverage < 0.1


@pytest.mark.parametrize("measure", [frechet_distance, kernel_distance, manifold_measures])
@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (
            np.ones(5),
            np.ones((20, 5)),
            r"real features are float64 \[5\]\n.* numbers \[N, F\]",
        ),
        (np.ones((20, 5)), np.full((20, 5), "a"), "fake features are <U1"),
        (np.ones((20, 5)), np.ones((20, 4)), "5 columns, fake ones 4"),
        (np.ones((1, 5)), np.ones((20, 5)), "at least"),
        (np.ones((20, 5)), np.full((20, 5), np.nan), "fake features must be finite"),
    ],
)
def test_wrong_features_are_refused(measure, real, fake, message):
    with pytest.raises(DataError, match=message):
        measure(real, fake)


def test_numbers_out_of_range_are_refused():
    x = np.ones((20, 3))
    with pytest.raises(ConfigError, match=r"size must be in 2\.\.20, not 1000"):
        kernel_distance(x, x)
    with pytest.raises(ConfigError, match="subsets"):
        kernel_distance(x, x, size=5, subsets=0)
    with pytest.raises(ConfigError, match="k must be"):
        manifold_measures(x, x, k=0)
