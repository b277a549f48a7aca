"""Writes tests/golden/likelihood.npz: what its authors' code makes of features, in float64.

Run from the repository's root, with PyTorch and the authors' package (github.com/marcojira/fld):
python -m tests.golden.make_likelihood
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from fld.MoG import MoG

N_TRAINING, N_TEST, N_FAKE, WIDTH = 240, 150, 90, 6
BATCH = 64  # rows per update, where there are several; the last batch is smaller


def make(seed: int = 0) -> dict[str, np.ndarray]:
    """The arrays of the file, drawn from a seed.

    Features: training, in random order; test; and of three kinds of fakes, `fake.NAME`: others,
    near_copies of training images, and some of both. Results for each kind: `test_nll.NAME`, the
    negative log likelihood of the test images per feature; `gap.NAME`; and `batches.NAME`, the log
    variances after updates of BATCH rows. For the first N_FAKE training images, fitted to the
    others: `baseline`.
    """
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((WIDTH, WIDTH))

    def draw(n: int) -> np.ndarray:
        return np.maximum(rng.standard_normal((n, WIDTH)) @ mixing, 0)

    training, test = draw(N_TRAINING), draw(N_TEST)
    others = 0.8 * draw(N_FAKE) + 0.2
    near = training[:N_FAKE] + 0.05 * rng.standard_normal((N_FAKE, WIDTH))
    kinds = {"others": others, "near_copies": near}
    kinds["both"] = np.concatenate([others[: N_FAKE // 2], near[: N_FAKE // 2]])
    arrays = {"training": training, "test": test, "batch": np.array(BATCH)}
    for name, fake in kinds.items():
        arrays |= {f"fake.{name}": fake} | _results(name, training, test, fake)
    scaled, scaled_test, _ = _scaled(training, test, others)
    mixture = _mixture(scaled[:N_FAKE], scaled[N_FAKE:])
    return arrays | {"baseline": _nll(mixture, scaled_test)}


def _results(
    name: str, training: np.ndarray, test: np.ndarray, fake: np.ndarray
) -> dict[str, np.ndarray]:
    known, unknown, centres = _scaled(training, test, fake)
    mixture = _mixture(centres, known)
    test_nll = _nll(mixture, unknown)
    return {
        f"test_nll.{name}": test_nll,
        f"gap.{name}": 100 * (_nll(mixture, known) - test_nll),
        f"batches.{name}": _mixture(centres, known, BATCH).log_sigmas.numpy(),
    }


def _scaled(*features: np.ndarray) -> tuple[torch.Tensor, ...]:
    from fld.MoG import preprocess_feat

    return preprocess_feat(*map(torch.from_numpy, features))


def _mixture(centres: torch.Tensor, x: torch.Tensor, batch_size: int = 10_000) -> "MoG":
    """A fitted mixture. The authors shuffle the rows; here they keep their order."""
    from fld import MoG

    MoG.shuffle = lambda rows: rows
    mixture = MoG.MoG(centres)
    mixture.fit(x, batch_size)
    return mixture


def _nll(mixture: "MoG", x: torch.Tensor) -> np.ndarray:
    return mixture.get_dim_adjusted_nlls(x).mean().numpy()


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    np.savez_compressed(Path(__file__).with_name("likelihood.npz"), **make())
