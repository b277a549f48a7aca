"""The losses that the report printed are among this library's: trained here, and on stored figures.

`python -m experiments.proofs.report_log` regenerates those figures.
"""

import json

import numpy as np
import pytest

from experiments.proofs.report_log import (
    EXAMPLES,
    FIGURES,
    FIRST,
    LOSSES,
    first_losses,
    offsets_of_first,
    offsets_of_last,
    report_losses,
)


@pytest.fixture(scope="module")
def figures():
    return json.loads(FIGURES.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def trained(fashion_mnist):
    """The losses of the first 25 batches of seeds 0 to 2, `[3, 25, 2]`."""
    return first_losses(EXAMPLES, fashion_mnist)


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_first_25_batches_have_the_stored_losses(figures, trained, loss):
    """Up to rounding, which differs between processors, to a twentieth of what seeds differ by."""
    stored, losses = figures["first"][loss], trained[..., LOSSES.index(loss)]
    assert losses.shape == (EXAMPLES, FIRST)
    assert (np.abs(losses - stored["examples"]) <= np.array(stored["sd"]) / 20).all()


@pytest.mark.slow
def test_first_25_printed_losses_are_among_the_seeds(figures, trained):
    """Within four standard deviations of twenty seeds, and those are as wide as the ones here."""
    assert figures["seeds"] >= 20
    offsets = offsets_of_first(figures)
    assert offsets.shape == (FIRST, 2)
    assert np.abs(offsets).max() <= 4
    for i, loss in enumerate(LOSSES):
        mean, sd = (np.array(figures["first"][loss][key]) for key in ("mean", "sd"))
        assert (np.abs(trained[..., i] - mean) <= 4 * sd).all()
        # The band is narrow: one standard deviation is small beside the curve's own height.
        assert sd.max() < 0.2 * np.ptp(mean)


def test_last_printed_losses_are_among_those_of_the_last_epochs(figures):
    """Within four standard deviations too: the four batches of 64 among the last epochs' like, and
    the very last, of 32, among the last batches of more epochs."""
    assert figures["last"]["full"]["steps"] == 5 * 937
    assert figures["last"]["small"]["steps"] == 50
    offsets = offsets_of_last(figures)
    assert offsets.shape == (5, 2)
    assert np.abs(offsets).max() <= 4


def test_report_losses_are_the_printed_ones():
    first, last = report_losses()
    assert first[0].tolist() == [0.480817, 0.972361]
    assert first[24].tolist() == [0.033376, 0.624410]
    assert last.tolist()[-1] == [0.224027, 0.287491]


def test_a_runs_own_first_losses_have_offsets_too(figures):
    losses = np.stack([figures["first"][loss]["examples"][0] for loss in LOSSES], axis=-1)
    offsets = offsets_of_first(figures, losses)
    assert np.abs(offsets).max() <= 4
    assert (offsets != offsets_of_first(figures)).all()
