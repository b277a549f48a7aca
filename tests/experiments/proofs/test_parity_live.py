"""The library beside PyTorch at the report's full size, on Fashion-MNIST. Needs PyTorch.

`python -m experiments.proofs.parity` prints the same as a table; test_parity.py does without PyTorch.
"""

from collections.abc import Iterator

import pytest
import torch

from cgan_jax.data import Dataset
from experiments.proofs import parity, parity_runs
from experiments.proofs.parity import FIRST_STEP, FLOAT32, FLOAT64, OUTPUTS, REPORT

pytestmark = [pytest.mark.torch, pytest.mark.slow]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Two threads that wait for each other on a busy machine take many times as long as one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def broken(steps: list[dict[str, float]], bounds: dict[str, float], dtype: str) -> list[str]:
    rows = list(parity.worst(steps, bounds, len(steps), dtype))
    assert len(rows) == len(bounds)
    return [str(row) for row in rows if not row.ok]


def test_200_steps_in_float64(fashion_mnist: Dataset) -> None:
    steps = list(parity_runs.compare_steps(REPORT, fashion_mnist, 200, dtype="float64"))
    assert len(steps) == 200
    assert broken(steps, FLOAT64, "float64") == []


@pytest.mark.parametrize("seed", range(5))
def test_20_steps_in_float32(fashion_mnist: Dataset, seed: int) -> None:
    steps = list(parity_runs.compare_steps(REPORT, fashion_mnist, 20, dtype="float32", seed=seed))
    assert len(steps) == 20
    assert broken(steps, FLOAT32, "float32") == []
    assert broken(steps[:1], FIRST_STEP, "float32") == []


def test_biases_before_a_batch_norm_have_no_influence(fashion_mnist: Dataset) -> None:
    steps = list(parity_runs.compare_shifted(REPORT, fashion_mnist, 3))
    assert broken(steps, parity.BIASES, "float64") == []
    # They are different, and only the running means notice.
    assert steps[0][f"parameters, {parity.IDLE}"] == pytest.approx(1)
    assert steps[0]["running means"] == pytest.approx(0.1)
    assert steps[0]["running variances"] < 1e-12


@pytest.mark.parametrize("whose", ["theirs", "ours"])
def test_trained_weights_give_the_same_images_on_both_sides(
    fashion_mnist: Dataset, whose: str
) -> None:
    """After an epoch, on the largest pixel difference of the tanh output."""
    compare = getattr(parity_runs, f"compare_images_of_{whose}")
    assert broken([compare(REPORT, fashion_mnist)], OUTPUTS, "float32") == []
