"""Measures that decline in the course of a run."""

import numpy as np
import pytest

from cgan_jax.metrics.measures import find_declines


def evaluations(name, *values):
    """Rows of a table, after epochs 2, 4, 6, ..."""
    return [{"epoch": 2 * i, "step": 9 * i, name: v} for i, v in enumerate(values, start=1)]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("coverage", (0.1, 0.6, 0.7, 0.44, 0.40, 0.449)),
        ("fcd", (9.0, 3.1, 3.0, 4.1, 9.0, 4.02)),
        ("coverage", (0.6, 0.1, 0.1, 0.1)),
        ("coverage", (float("nan"), 0.6, 0.1, 0.1, 0.1)),
    ],
)
def test_three_evaluations_a_quarter_below_the_best_are_a_decline(name, values):
    best = {"coverage": np.nanmax, "fcd": np.nanmin}[name](values)
    (line,) = find_declines(evaluations(name, *values))
    expected = (
        f"{name} has been clearly worse than its best for 3 evaluations: {values[-1]:.3g} now"
    )
    assert line == f"{expected}, {best:.3g} after epoch {2 * values.index(best) + 2}"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("coverage", ()),
        ("coverage", (0.6,)),
        ("coverage", (0.6, 0.1, 0.1)),  # too few below it
        ("coverage", (0.6, 0.1, 0.1, 0.46)),  # recovered
        ("coverage", (0.6, 0.46, 0.46, 0.46)),  # not clearly
        ("coverage", (0.1, 0.2, 0.3, 0.4)),
        ("fcd", (4.0, 3.0, 2.0, 1.0)),
        ("fcd", (1.0, 1.3, 1.3, 1.3)),
        ("fcd", (1.0, 2.0, 2.0, float("nan"))),
        ("fcd", (float("nan"),) * 4),
        ("diversity", (60.0, 1.0, 1.0, 1.0)),  # near real is better: no direction
        ("own_measure", (60.0, 1.0, 1.0, 1.0)),
    ],
)
def test_anything_else_is_no_decline(name, values):
    assert find_declines(evaluations(name, *values)) == []


def test_each_measure_has_a_line_of_its_own():
    rows = [a | b for a, b in zip(evaluations("gan_test", 0.9, 0.5, 0.5, 0.5),
                                  evaluations("fcd", 1, 2, 2, 2), strict=True)]  # fmt: skip
    assert [line.split()[0] for line in find_declines(rows)] == ["gan_test", "fcd"]
