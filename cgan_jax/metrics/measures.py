"""The measures by name: what each one means, and which direction is better."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

Measure = Callable[[np.ndarray, np.ndarray], Mapping[str, float]]
"""Maps images, uint8 `[n, H, W, C]`, and their classes, int32 `[n]`, to numbers by name."""
CLEARLY_WORSE = 0.25  # relative to the best
PATIENCE = 3  # evaluations in a row


class Meaning(NamedTuple):
    """What a measure means.

    Attributes:
        text: in a few words.
        better: `higher`, `lower`, or `near real`: closer to the figure of real images.
    """

    text: str
    better: str


MEASURES: Mapping[str, Meaning] = {
    "gan_test": Meaning("share classified as the requested class", "higher"),
    "gan_test_worst": Meaning("the same, worst class", "higher"),
    "fcd": Meaning("Frechet distance to test images", "lower"),
    "fcd_50k": Meaning("Frechet distance, 50,000 fakes to all training images", "lower"),
    "intra_fcd": Meaning("Frechet distance within a class, mean", "lower"),
    "intra_fcd_worst": Meaning("the same, worst class", "lower"),
    "kcd": Meaning("kernel distance to test images", "lower"),
    "precision": Meaning("share of fakes among real images", "higher"),
    "recall": Meaning("share of real images among fakes", "higher"),
    "density": Meaning("real neighbourhoods around a fake", "higher"),
    "coverage": Meaning("share of real neighbourhoods with a fake", "higher"),
    "cas": Meaning("test accuracy of a classifier trained on fakes", "higher"),
    "fld": Meaning("feature likelihood divergence, which sees copies too", "lower"),
    "fld_gap": Meaning("far below real: copies of training images", "near real"),
    "nearest_training": Meaning("grey levels to the nearest training image", "near real"),
    "diversity": Meaning("grey levels between two images of a class", "near real"),
    "fid": Meaning("Frechet distance in Inception's features", "lower"),
    "pixel_fd": Meaning("Frechet distance in principal components of the pixels", "lower"),
}
"""All measures, in the order of the tables."""


def describe(name: str) -> str:
    """A measure's meaning with the direction that is better; empty for an unknown name."""
    meaning = MEASURES.get(name)
    return f"{meaning.text}; {meaning.better} is better" if meaning else ""


def find_declines(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """Find the measures that have fallen clearly below their best, as when a GAN collapses.

    Those are worse than their best by a quarter in each of the last three evaluations.

    Args:
        rows: of a run's evaluations, in order: `epoch`, and measures by name. Only those whose
            direction is known (`higher` or `lower`) are looked at.

    Returns:
        a sentence for each such measure.
    """
    lines = []
    for name in rows[-1] if len(rows) > PATIENCE else ():
        better = MEASURES[name].better if name in MEASURES else ""
        if better not in ("higher", "lower"):
            continue
        sign = 1 if better == "higher" else -1  # the higher, the better
        taken = [row for row in rows if not math.isnan(row[name])]  # once a run has a reference
        best = max(taken, key=lambda row: sign * row[name], default={})
        bound = best.get(name, math.nan) * (1 - CLEARLY_WORSE) ** sign
        recent = [row[name] for row in rows[-PATIENCE:]]
        if all(sign * value < sign * bound for value in recent):
            lines.append(
                f"{name} has been clearly worse than its best for {PATIENCE} evaluations: "
                f"{recent[-1]:.3g} now, {best[name]:.3g} after epoch {best['epoch']:.0f}"
            )
    return lines
