"""The library beside PyTorch at the report's full size, on Fashion-MNIST. Needs PyTorch.

`python -m experiments.proofs.parity` prints the same as a table; test_parity.py needs no PyTorch.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import optax
import pytest
import torch

from cgan_jax.data import Dataset
from cgan_jax.training.gan import GAN
from cgan_jax.training.optimizers import adam
from experiments.proofs import parity, parity_runs
from experiments.proofs.parity import FLOAT32, FLOAT64, OUTPUTS, REPORT, Row

pytestmark = [pytest.mark.torch, pytest.mark.slow]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Two threads that wait for each other on a busy machine take many times as long as one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def broken(rows: Iterable[Row]) -> list[str]:
    return [row.what for row in rows if not row.ok]


def test_steps_in_float64(fashion_mnist: Dataset) -> None:
    """An eighth of the table's 200 steps, within a hundredth of its bounds.

    So what grows as the square of the steps, or slower, and breaks a bound of the table is found.
    """
    steps = list(parity_runs.compare_steps(REPORT, fashion_mnist, 25, dtype="float64"))
    assert len(steps) == 25
    tighter = {what: bound / 100 for what, bound in FLOAT64.items()}
    assert broken(parity.worst(steps, tighter, 25, "float64")) == []


@pytest.mark.parametrize("seed", range(5))
def test_steps_in_float32(fashion_mnist: Dataset, seed: int) -> None:
    """Each starts from PyTorch's state, so that they need not be many."""
    steps = list(parity_runs.compare_steps(REPORT, fashion_mnist, 8, dtype="float32", seed=seed))
    assert len(steps) == 8
    rows = list(parity.median(steps, 8))
    assert {row.what for row in rows} >= set(FLOAT32)
    assert broken(rows) == []


def with_adam(gan: GAN, make: Callable[..., optax.GradientTransformation]) -> GAN:
    optimizer = make(2e-4, 0.5, 0.999, 1e-8)
    return replace(gan, gen_optimizer=optimizer, disc_optimizer=optimizer)


def with_generator(gan: GAN, **settings: float) -> GAN:
    return replace(gan, generator=gan.generator.clone(**settings))


@pytest.mark.parametrize(
    ("mistake", "row"),
    [
        (lambda gan: with_adam(gan, optax.adam), parity.UPDATE),
        (lambda gan: with_adam(gan, lambda *now: adam(*now[:3], 1e-7)), "parameters"),
        (lambda gan: with_generator(gan, bn_epsilon=0.80001), "fakes"),
        (
            lambda gan: replace(gan, generator=gan.generator.clone(bn_momentum=0.90001)),
            "running means",
        ),
    ],
    ids=["bias correction in float32", "Adam's epsilon", "BatchNorm's epsilon", "its momentum"],
)
def test_a_mistake_breaks_a_float32_row(
    fashion_mnist: Dataset, monkeypatch: pytest.MonkeyPatch, mistake: Callable[[GAN], GAN], row: str
) -> None:
    """Though the bounds are measured, not fixed."""
    wrong = mistake(GAN.from_config(REPORT))
    monkeypatch.setattr(GAN, "from_config", lambda config: wrong)
    steps = list(parity_runs.compare_steps(REPORT, fashion_mnist, 5, dtype="float32"))
    assert row in broken(parity.median(steps, 5))


def test_biases_before_a_batch_norm_have_no_influence(fashion_mnist: Dataset) -> None:
    steps = list(parity_runs.compare_shifted(REPORT, fashion_mnist, 3))
    assert broken(parity.worst(steps, parity.BIASES, 3, "float64")) == []
    # They are different, and only the running means notice.
    assert steps[0][f"parameters, {parity.IDLE}"] == pytest.approx(1)
    assert steps[0]["running means"] == pytest.approx(0.1)
    assert steps[0]["running variances"] < 1e-12


@pytest.mark.parametrize("whose", ["theirs", "ours"])
def test_trained_weights_give_the_same_images_on_both_sides(
    fashion_mnist: Dataset, whose: str
) -> None:
    """After 150 batches, on the largest pixel difference of the tanh output."""
    compare = getattr(parity_runs, f"compare_images_of_{whose}")
    gaps = compare(REPORT, fashion_mnist, 150)
    assert broken(parity.worst([gaps], OUTPUTS, 150, "float32")) == []
