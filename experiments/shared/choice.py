"""What was asked for: classes by name, and one class's pictures laid out as a square."""

import math
from collections.abc import Sequence

import numpy as np


def class_ids(labels: Sequence[str], class_names: Sequence[str]) -> np.ndarray:
    """Class ids of labels, or of all.

    Raises:
        ConfigError: a label is no class.
    """
    from cgan_jax.sampling.generator import label_ids

    every = [word.casefold() for word in labels] == ["all"]
    return label_ids(range(len(class_names)) if every else labels, class_names)


def square(images: np.ndarray, name: str) -> tuple[np.ndarray, list[str]]:
    """Pictures of one class as about as many rows as columns, the name above the first.

    At most as many columns as a grid has side by side. What the last row lacks is white.
    """
    from cgan_jax.pictures.grids import MOST_COLUMNS

    columns = min(math.ceil(math.sqrt(len(images))), MOST_COLUMNS)
    lacking = -len(images) % columns
    filled = np.pad(images, ((0, lacking), (0, 0), (0, 0), (0, 0)), constant_values=255)
    return filled.reshape(-1, columns, *images.shape[1:]), [name] + [""] * (columns - 1)
