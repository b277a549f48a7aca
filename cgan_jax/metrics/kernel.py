"""The kernel distance between two sets of features (Binkowski et al. 2018)."""

import numpy as np

from cgan_jax.errors import ConfigError
from cgan_jax.metrics.inputs import check_features


def kernel_distance(
    real: np.ndarray, fake: np.ndarray, *, subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Squared maximum mean discrepancy with the kernel `(x . y / F + 1)^3`, unbiased.

    Section 4 of Binkowski et al. 2018, "Demystifying MMD GANs", where it is the KID: the mean over
    random subsets, drawn without replacement. Unlike the Frechet distance it is not biased by the
    number of rows, and may be below 0.

    Args:
        real: features `[N, F]`.
        fake: features `[M, F]`.
        subsets: number of estimates.
        size: rows of each set in an estimate; at most N and M.
        seed: of the subsets.

    Returns:
        mean and standard deviation of the estimates.

    Raises:
        ConfigError: `size` or `subsets` is out of range.
        DataError: shapes that do not fit, or values that are not finite.
    """
    real, fake = check_features(real, fake, least=2)
    if not 2 <= size <= min(len(real), len(fake)):
        raise ConfigError(f"size must be in 2..{min(len(real), len(fake))}, not {size}")
    if subsets < 1:
        raise ConfigError(f"subsets must be at least 1, not {subsets}")
    rng = np.random.default_rng(seed)
    draw = lambda rows: rows[rng.choice(len(rows), size, replace=False)]  # noqa: E731
    estimates = [_unbiased_mmd(draw(real), draw(fake)) for _ in range(subsets)]
    return float(np.mean(estimates)), float(np.std(estimates))


def _unbiased_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Equation 4 of Binkowski et al.: without the pairs of a row with itself."""
    n = len(x)
    xx, yy, xy = _kernel(x, x), _kernel(y, y), _kernel(x, y)
    within = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (n * (n - 1))
    return float(within - 2 * xy.mean())


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    base = x @ y.T / x.shape[1] + 1
    return base * base * base  # NumPy's power takes several times as long
