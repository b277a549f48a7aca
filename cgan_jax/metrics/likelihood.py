"""The feature likelihood divergence (Jiralerspong et al. 2023), which sees copies as well.

"Feature Likelihood Divergence: Evaluating the Generalization of Generative Models Using Samples",
NeurIPS 2023. Each generated image's features become the centre of a Gaussian, as wide as makes the
training images most likely. Around a copy of one it is so narrow that test images are unlikely.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.special import logsumexp

from cgan_jax.checks import check_int
from cgan_jax.errors import DataError
from cgan_jax.metrics.inputs import check_features, chunks

# The settings of the authors' code.
N_CENTRES = 10_000
BATCH = 10_000  # training images per update
EPOCHS, LEARNING_RATE = 50, 0.5
SETTLED, PATIENCE = 5e-4, 5  # stop once the last five epochs' losses are this close
LEAST_SQUARE = 1e-3  # of a distance, so that a copy's first variance is above 0
LARGEST_LOG_VARIANCE = 40.0
BACKGROUND_SCALE = 0.9  # of the distance to the training images' mean

CHUNK = 1_000  # images at a time: against 10,000 Gaussians a block takes 40 MB


class FeatureLikelihood(NamedTuple):
    """How likely real images are under Gaussians on other images, in 1/100 nats per feature.

    Attributes:
        divergence: how much less likely test images are than under Gaussians on training images. 0
            is as good as these; the lower the better.
        gap: how much more likely test images are than training images. Below 0, as training images
            have a part in the fit; far below that of real images, the generated ones are copies.
    """

    divergence: float
    gap: float


class FeatureLikelihoodDivergence:
    """Measures generated images beside training and test images.

    Features are scaled by the test images' mean and standard deviation; those that are equal in all
    test images are left out.

    Args:
        training: features `[N, F]` of the images that the generator was trained on.
        test: features `[M, F]` of others.
        n_centres: how many training images, at most half, take the place of generated ones. Measure
            as many generated ones.
        seed: of the choice of these.

    Attributes:
        real: of these training images, with Gaussians fitted to the other training images.

    Raises:
        ConfigError: `n_centres` is out of range.
        DataError: shapes that do not fit, or values that are not finite, or do not vary.
    """

    def __init__(
        self, training: np.ndarray, test: np.ndarray, *, n_centres: int = N_CENTRES, seed: int = 0
    ) -> None:
        training, test = check_features(training, test, least=2)
        hint = "Give at most half of the training images."
        check_int("n_centres", n_centres, 1, len(training) // 2, hint=hint)
        self._mean, self._sd = test.mean(0), test.std(0, ddof=1)
        if not self._sd.any():
            raise DataError(
                "the features of all test images are equal\nexpected different ones\n"
                "Give those of several images."
            )
        self._test = self._scaled(test)
        self._training = np.random.default_rng(seed).permutation(self._scaled(training))
        centres, rest = np.split(self._training, [n_centres])
        self._baseline, gap = self._nll_and_gap(centres, rest)
        self.real = FeatureLikelihood(0.0, gap)

    def __call__(self, fake: np.ndarray) -> FeatureLikelihood:
        """Measure generated images.

        Args:
            fake: features `[K, F]`.

        Raises:
            DataError: shapes that do not fit, or values that are not finite.
        """
        check_features(self._mean[None], fake, least=1)
        nll, gap = self._nll_and_gap(self._scaled(np.asarray(fake, np.float64)), self._training)
        return FeatureLikelihood(100 * (nll - self._baseline), gap)

    def _scaled(self, features: np.ndarray) -> np.ndarray:
        varies = self._sd > 0
        return (features - self._mean)[:, varies] / self._sd[varies]

    def _nll_and_gap(self, centres: np.ndarray, training: np.ndarray) -> tuple[float, float]:
        log_variances = fit_log_variances(centres, training)
        train_nll, test_nll = (
            negative_log_likelihood(x, centres, log_variances) for x in (training, self._test)
        )
        return test_nll, 100 * (train_nll - test_nll)


class _Params(NamedTuple):
    """What is fitted.

    Attributes:
        log_variances: of the Gaussians, float `[N]`.
        background: log variance of a Gaussian around the mean of what they are fitted to, which
            spares them its outliers; float `[]`. Likelihoods are computed without it.
    """

    log_variances: jax.Array
    background: jax.Array


def fit_log_variances(centres: np.ndarray, x: np.ndarray, batch_size: int = BATCH) -> jax.Array:
    """Log variances of Gaussians, of equal weight, under which rows are most likely.

    By Adam, from the distances to the nearest rows.

    Args:
        centres: of the Gaussians, floats `[N, F]`.
        x: floats `[M, F]`, in random order if they are more than a batch.
        batch_size: rows per update.

    Returns:
        float `[N]`.
    """
    centre_rows, mean = jnp.asarray(centres), jnp.asarray(x.mean(0, keepdims=True))
    batches = [
        [jnp.asarray(x[batch][rows]) for rows in chunks(len(x[batch]), CHUNK)]
        for batch in chunks(len(x), batch_size)
    ]
    nearest = jnp.stack([_nearest(rows, centre_rows) for batch in batches for rows in batch]).min(0)
    params = _Params(jnp.log((nearest + LEAST_SQUARE) / x.shape[1]), jnp.zeros(()))
    optimizer = optax.adam(LEARNING_RATE)
    opt_state, losses = optimizer.init(params), []
    for _ in range(EPOCHS):
        batch_losses = []
        for batch in batches:
            loss, grads = _mean_loss_and_grads(params, batch, centre_rows, mean)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
            limit = LARGEST_LOG_VARIANCE
            params = params._replace(log_variances=params.log_variances.clip(-limit, limit))
            batch_losses.append(float(loss))
        losses.append(float(np.mean(batch_losses)))
        recent = np.array(losses[-PATIENCE:])
        if len(losses) > PATIENCE + 1 and np.abs(recent - recent[-1]).max() < SETTLED:
            break
    return params.log_variances


def negative_log_likelihood(x: np.ndarray, centres: np.ndarray, log_variances: jax.Array) -> float:
    """Mean over rows of the negative log likelihood per feature, under Gaussians of equal weight.

    Args:
        x: floats `[M, F]`.
        centres: floats `[N, F]`.
        log_variances: floats `[N]`.
    """
    centre_rows = jnp.asarray(centres)
    sums = [
        _nll(jnp.asarray(x[rows]), centre_rows, log_variances) for rows in chunks(len(x), CHUNK)
    ]
    return float(np.sum(sums)) / x.size


def _mean_loss_and_grads(
    params: _Params, batch: Sequence[jax.Array], centres: jax.Array, mean: jax.Array
) -> tuple[jax.Array, _Params]:
    parts = [_loss_and_grads(params, rows, centres, mean) for rows in batch]
    n = sum(map(len, batch))
    return jax.tree.map(lambda *sums: sum(sums) / n, *parts)


@jax.jit
def _nearest(x: jax.Array, centres: jax.Array) -> jax.Array:
    """The squared distance of each centre to the nearest row."""
    return _squared_distances(x, centres).min(0)


@jax.jit
def _nll(x: jax.Array, centres: jax.Array, log_variances: jax.Array) -> jax.Array:
    """The sum over rows of the negative log likelihood."""
    densities = _log_densities(_squared_distances(x, centres), log_variances, x.shape[1])
    return -(logsumexp(densities, axis=1) - np.log(len(centres))).sum()


@jax.jit
@jax.value_and_grad
def _loss_and_grads(
    params: _Params, x: jax.Array, centres: jax.Array, mean: jax.Array
) -> jax.Array:
    """The sum over rows of the negative log likelihood per feature, with the background."""
    dim = x.shape[1]
    densities = _log_densities(_squared_distances(x, centres), params.log_variances, dim)
    squared = BACKGROUND_SCALE**2 * _squared_distances(x, mean)
    background = _log_densities(squared, params.background, dim)
    each = jnp.concatenate([densities - np.log(len(centres)), background], axis=1)
    return -logsumexp(each, axis=1).sum() / dim


def _log_densities(squared: jax.Array, log_variances: jax.Array, dim: int) -> jax.Array:
    """Log densities of Gaussians at squared distances from their centres."""
    return -0.5 * (squared / jnp.exp(log_variances) + dim * (log_variances + np.log(2 * np.pi)))


def _squared_distances(x: jax.Array, y: jax.Array) -> jax.Array:
    """Of all rows of x, `[N, F]`, to all of y, `[M, F]`: `[N, M]`."""
    products = jnp.matmul(x, y.T, precision="highest")
    return jnp.maximum((x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * products, 0)
