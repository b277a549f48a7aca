"""Measures in the course of a run, as callbacks: a table, a plot, the best checkpoint.

Which measures they are is the caller's choice, such as metrics/quick.py's. A measure of your own is
a `Callback` with the method `measure`: what it returns is in the table too.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jax import random

from cgan_jax.checks import check_int, check_seed, one_line
from cgan_jax.errors import ConfigError, RunError
from cgan_jax.files import atomic_write, write_errors
from cgan_jax.metrics.measures import Measure, find_declines
from cgan_jax.pictures.plots import plot_measures
from cgan_jax.runs.checkpoint import Checkpoints
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.tables import read_measures, write_measures
from cgan_jax.sampling.latent_space import generate
from cgan_jax.training.callbacks import Callback, EpochEnd, TrainStart
from cgan_jax.training.gan import GAN

AFTER_DECLINE = "The GAN may be collapsing; best/ keeps its best state."
_log = logging.getLogger("cgan_jax")


class MeasuresTable(Callback):
    """Measures of generated images, one row each time, in `measures.csv`, and a plot of them.

    Args:
        gan: what is trained.
        run: the run folder.
        measure: maps images, uint8 `[n, H, W, C]`, and the requested classes, int32 `[n]`, to
            numbers by name, the same names each time.
        every: epochs between two measurements.
        n_images: how many, split evenly over the classes.
        seed: of the latent points, which are the same each time.
    """

    def __init__(
        self,
        gan: GAN,
        run: RunFolder,
        measure: Measure,
        every: int,
        n_images: int = 2_000,
        seed: int = 0,
    ) -> None:
        self._gan, self._run, self._measure = gan, run, measure
        self._every = check_int("every", every, 1, hint="Give a number of epochs.")
        hint = "Omit it for the default, 2000."
        n_images = check_int("n_images", n_images, 2, hint=hint)
        self._labels = np.arange(n_images, dtype=np.int32) % len(run.class_names)
        self._key = random.key(check_seed(seed))

    def on_train_start(self, start: TrainStart) -> None:
        """Rows after this step were written by a run that ended before it saved again."""
        rows = read_measures(self._run.measures)
        if any(row["step"] > start.step for row in rows):
            write_measures(self._run.measures, [row for row in rows if row["step"] <= start.step])

    def measure(self, epoch: EpochEnd) -> Mapping[str, float]:
        """What the images of this epoch's generator give, if it is time to measure."""
        if epoch.epoch % self._every:
            return {}
        variables = epoch.state.sampling_variables
        images = generate(self._gan.generator, variables, self._labels, self._key)
        return dict(self._measure(images, self._labels))

    def on_epoch_end(self, epoch: EpochEnd) -> None:
        if not epoch.measures:
            return
        rows = read_measures(self._run.measures)
        rows.append({"epoch": epoch.epoch, "step": epoch.step, **epoch.measures})
        write_measures(self._run.measures, rows)
        epochs = [int(row["epoch"]) for row in rows]
        values = {name: [row.get(name, np.nan) for row in rows] for name in epoch.measures}
        with atomic_write(self._run.path / "measures.png") as temporary:
            plot_measures(epochs, values, temporary)
        for line in find_declines(rows):
            _log.warning("WARNING: %s. %s", line, AFTER_DECLINE)


class BestCheckpoint(Callback):
    """The state with the lowest measure so far, in `best/`, beside the latest in `checkpoints/`.

    The next best is complete before it replaces the one before. A run that resumes from an earlier
    step keeps the best that it had: it reaches the same state again.

    Args:
        run: the run folder.
        by: the measure's name, one of those that the callbacks of the run take; the lower the
            better.
    """

    def __init__(self, run: RunFolder, by: str) -> None:
        self._run, self._by = run, by
        self._new, self._old = (run.path / f".best.{which}" for which in ("new", "old"))

    def on_train_start(self, start: TrainStart) -> None:
        with write_errors(self._run.best):
            if self._old.exists() and not self._run.best.exists():
                self._old.rename(self._run.best)  # the process ended between two renames
        self._lowest = np.inf
        if self._run.best.exists():
            self._lowest = _number_in(self._run.best / "measure.json", self._by)

    def on_epoch_end(self, epoch: EpochEnd) -> None:
        if not epoch.measures:
            return
        if self._by not in epoch.measures:
            raise ConfigError(
                f"the best checkpoint is to be chosen by {self._by!r}\n"
                f"expected one of the measures that are taken: {', '.join(epoch.measures)}\n"
                "Pass one of these as by=, or a callback that measures it."
            )
        value = float(epoch.measures[self._by])
        if not value < self._lowest:
            return
        with write_errors(self._run.best):
            shutil.rmtree(self._new, ignore_errors=True)
            with Checkpoints(self._new) as checkpoints:
                checkpoints.save(epoch.step, epoch.state)
            about = json.dumps({"epoch": epoch.epoch, self._by: value})
            (self._new / "measure.json").write_text(about + "\n", encoding="utf-8")
            shutil.rmtree(self._old, ignore_errors=True)
            if self._run.best.exists():
                self._run.best.rename(self._old)
            self._new.rename(self._run.best)
            shutil.rmtree(self._old, ignore_errors=True)
        self._lowest = value


def _number_in(file: Path, name: str) -> float:
    try:
        return float(json.loads(file.read_text(encoding="utf-8"))[name])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{file} cannot be read: {one_line(error)}\nexpected a table with {name}\n"
            "Move the folder away, then resume the run: it keeps the best from there on."
        ) from error
