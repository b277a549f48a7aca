"""What several commands ask for: a run's checkpoint, classes by name; and how to lay out images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro

from cgan_jax.checks import check_int
from cgan_jax.errors import ConfigError
from cgan_jax.runs.folder import RunFolder

if TYPE_CHECKING:
    from cgan_jax.sampling.generator import TrainedGenerator

Words = tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]]
"""The type of a flag that takes several words and may be repeated: `--label a b --label c`."""


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint of the run: by default the newest that is intact."""

    step: int | None = None
    """Take the checkpoint of this step."""
    best: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Take the best checkpoint, which --eval-every keeps."""
    raw: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Take the generator as it is trained, even where the run keeps an average of it."""

    def check(self) -> None:
        """Raises ConfigError for a --step that is not a step, or goes with --best."""
        if self.step is not None:
            check_int("step", self.step, 0, hint="Omit it for the newest checkpoint.")
            if self.best:
                raise ConfigError("step does not go with --best\nexpected one of them\nOmit one.")

    def load(self, run: RunFolder) -> "TrainedGenerator":
        """The generator of a run; see `cgan_jax.load_generator`."""
        from cgan_jax.sampling.generator import load_generator
        from experiments.shared.compile_cache import keep_programs

        keep_programs()
        return load_generator(run.path, step=self.step, best=self.best, raw=self.raw)


NEWEST = Checkpoint()


def class_ids(words: Sequence[Sequence[str]], class_names: Sequence[str]) -> np.ndarray:
    """Class ids of the labels after a flag, or of all classes.

    Raises:
        ConfigError: a label is not a class, or there is none.
    """
    from cgan_jax.sampling.generator import label_ids

    labels = [word for group in words for word in group]
    if not labels:
        raise ConfigError("there is no label\nexpected at least one\nGive some, or all.")
    is_all = [word.casefold() for word in labels] == ["all"]
    return label_ids(range(len(class_names)) if is_all else labels, class_names)


def square(images: np.ndarray, name: str) -> tuple[np.ndarray, list[str]]:
    """Images of one class in about as many rows as columns, the name above the first.

    Never more columns than a grid has side by side. White fills up the last row.
    """
    from cgan_jax.pictures.grids import MOST_COLUMNS

    columns = min(math.ceil(math.sqrt(len(images))), MOST_COLUMNS)
    missing = -len(images) % columns
    filled = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)), constant_values=255)
    return filled.reshape(-1, columns, *images.shape[1:]), [name] + [""] * (columns - 1)
