"""The feature likelihood divergence beside its authors' code, and what it sees."""

from pathlib import Path

import jax
import numpy as np
import pytest

from cgan_jax.errors import ConfigError, DataError
from cgan_jax.metrics import FeatureLikelihoodDivergence, likelihood
from cgan_jax.metrics.likelihood import fit_log_variances, negative_log_likelihood

GOLDEN = Path(__file__).parents[1] / "golden" / "likelihood.npz"  # by make_likelihood.py
KINDS = ("others", "near_copies", "both")


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays, jax.enable_x64(True):
        yield dict(arrays)


def scaled(golden, name):
    """Training, test and other features, by the test images' mean and standard deviation."""
    test = golden["test"]
    mean, sd = test.mean(0), test.std(0, ddof=1)
    return [(golden[each] - mean) / sd for each in ("training", "test", name)]


@pytest.mark.parametrize("kind", KINDS)
def test_likelihoods_match_the_authors_code(golden, kind):
    training, test, fake = golden["training"], golden["test"], golden[f"fake.{kind}"]
    measure = FeatureLikelihoodDivergence(training, test, n_centres=len(fake))
    known, unknown, centres = scaled(golden, f"fake.{kind}")
    nll = negative_log_likelihood(unknown, centres, fit_log_variances(centres, known))
    assert nll == pytest.approx(golden[f"test_nll.{kind}"], rel=1e-9)
    assert measure(fake).gap == pytest.approx(golden[f"gap.{kind}"], rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_updates_by_batches_match_the_authors_code(golden, kind, monkeypatch):
    """In chunks that do not divide a batch, and with a smaller last batch."""
    monkeypatch.setattr(likelihood, "CHUNK", 25)
    known, _, centres = scaled(golden, f"fake.{kind}")
    log_variances = fit_log_variances(centres, known, batch_size=int(golden["batch"]))
    np.testing.assert_allclose(log_variances, golden[f"batches.{kind}"], rtol=1e-7)


def test_baseline_matches_the_authors_code(golden):
    known, unknown, _ = scaled(golden, "fake.others")
    centres, rest = np.split(known, [len(golden["fake.others"])])
    nll = negative_log_likelihood(unknown, centres, fit_log_variances(centres, rest))
    assert nll == pytest.approx(golden["baseline"], rel=1e-9)


@pytest.fixture(scope="module")
def measure(golden):
    return FeatureLikelihoodDivergence(golden["training"], golden["test"], n_centres=90)


def test_training_images_in_place_of_fakes_are_the_zero(measure, golden):
    """Those of the constructor, which fits them to the others alone."""
    assert measure.real.divergence == 0
    shuffled = np.random.default_rng(0).permutation(golden["training"])
    others = FeatureLikelihoodDivergence(shuffled[90:], golden["test"], n_centres=1)
    assert others(shuffled[:90]).gap == pytest.approx(measure.real.gap, rel=1e-9)


def test_copies_are_worse_than_real_images_and_than_others(measure, golden):
    """A copy is as good as real by the Frechet distance and by coverage, and not by this."""
    test = golden["test"][:90]
    copies, others, new = (measure(x) for x in (golden["fake.near_copies"], test + 0.3, test))
    assert copies.divergence > 100 > others.divergence > new.divergence
    assert copies.gap < -100 < measure.real.gap


def test_features_that_never_vary_are_left_out(measure, golden):
    dead = lambda x: np.insert(x, 2, 7.0, axis=1)  # noqa: E731
    arrays = (dead(golden[name]) for name in ("training", "test", "fake.others"))
    training, test, fake = arrays
    likewise = FeatureLikelihoodDivergence(training, test, n_centres=90)(fake)
    assert likewise == pytest.approx(measure(golden["fake.others"]), rel=1e-9)


def test_scale_of_the_features_does_not_matter(measure, golden):
    scale, shift = np.array([1e-3, 1, 5, 10, 1e4, 2]), np.arange(6)
    arrays = (golden[name] * scale + shift for name in ("training", "test", "fake.others"))
    training, test, fake = arrays
    likewise = FeatureLikelihoodDivergence(training, test, n_centres=90)(fake)
    assert likewise == pytest.approx(measure(golden["fake.others"]), rel=1e-6)


def test_wrong_features_are_refused(measure, golden):
    x = golden["test"]
    with pytest.raises(DataError, match="6 columns, fake ones 5"):
        measure(x[:, :5])
    with pytest.raises(DataError, match="must be finite"):
        measure(np.full((3, 6), np.nan))
    with pytest.raises(DataError, match="are equal\nexpected different ones"):
        FeatureLikelihoodDivergence(x, np.ones((4, 6)), n_centres=1)
    with pytest.raises(ConfigError, match="n_centres must be"):
        FeatureLikelihoodDivergence(x, x)
