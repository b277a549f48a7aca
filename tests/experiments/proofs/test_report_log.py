"""The losses that the report printed lie among this library's, on stored figures.

`python -m experiments.proofs.report_log` makes those figures anew.
"""

import json

import numpy as np
import pytest

from experiments.proofs.report_log import FIGURES, LOSSES, offsets_of_last, report_losses


@pytest.fixture(scope="module")
def figures():
    return json.loads(FIGURES.read_text(encoding="utf-8"))


@pytest.mark.parametrize("loss", LOSSES)
def test_the_first_25_batches_lie_within_four_standard_deviations(figures, loss):
    assert figures["seeds"] >= 20
    mean, sd = (np.array(figures["first"][loss][key]) for key in ("mean", "sd"))
    report = report_losses()[0][:, LOSSES.index(loss)]
    assert report.shape == mean.shape == (25,)
    assert (np.abs(report - mean) <= 4 * sd).all()
    # The band says something: one standard deviation is small beside the curve's own height.
    assert sd.max() < 0.2 * np.ptp(mean)


def test_the_last_batches_lie_among_those_of_the_last_epochs(figures):
    """Within four standard deviations too: four batches of 64 among the last epochs' like, and the
    very last, of 32, among the last of the epochs before."""
    assert figures["last"]["full"]["steps"] == 5 * 937
    assert figures["last"]["small"]["steps"] == 50
    offsets = offsets_of_last(figures)
    assert len(offsets) == 10
    assert max(map(abs, offsets.values())) <= 4


def test_the_reports_figures_are_its_own():
    first, last = report_losses()
    assert first[0].tolist() == [0.480817, 0.972361]
    assert first[24].tolist() == [0.033376, 0.624410]
    assert last.tolist()[-1] == [0.224027, 0.287491]
