"""Callbacks that write files: the table and plot of losses, sample grids, TensorBoard events.

The loop that calls them is training/loop.py's, the bar on the screen training/progress.py's.
"""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from jax import random

from cgan_jax.checks import check_int, check_seed, short_repr
from cgan_jax.errors import ConfigError
from cgan_jax.files import atomic_write, write_errors
from cgan_jax.metrics.diversity import nearest_neighbours
from cgan_jax.pictures.grids import grid, rows_for, shown_classes
from cgan_jax.pictures.plots import plot_losses
from cgan_jax.runs.events import EventFile
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.tables import append_losses, read_losses, rewind_losses
from cgan_jax.sampling.latent_space import generate
from cgan_jax.training.callbacks import Callback, ChunkEnd, EpochEnd, TrainEnd, TrainStart
from cgan_jax.training.gan import GAN, GANState, condition_dim

PLOTTING = 0.05  # the share of its time that a run may spend on plots of its losses


class LossesTable(Callback):
    """Every step's losses in `losses.csv`, and a plot of them in `losses.png`.

    Args:
        run: the run folder.
        plot_every: epochs between two plots; more where epochs are so short that plotting would
            take longer than PLOTTING allows. The last one is drawn at the end.
    """

    def __init__(self, run: RunFolder, plot_every: int = 5) -> None:
        self._run = run
        hint = "Omit it for the default, 5."
        self._plot_every = check_int("plot_every", plot_every, 1, hint=hint)
        self._next_plot = -math.inf  # seconds on the clock

    def on_train_start(self, start: TrainStart) -> None:
        self._steps_per_epoch = start.steps_per_epoch
        rewind_losses(self._run.losses, start.step, start.steps_per_epoch)

    def on_chunk_end(self, chunk: ChunkEnd) -> None:
        append_losses(self._run.losses, chunk.epoch, chunk.batch, chunk.losses)

    def on_epoch_end(self, epoch: EpochEnd) -> None:
        if epoch.epoch % self._plot_every == 0 and time.monotonic() >= self._next_plot:
            self._plot()

    def on_train_end(self, end: TrainEnd) -> None:
        if end.step:
            self._plot()

    def _plot(self) -> None:
        began = time.monotonic()
        losses = read_losses(self._run.losses)
        with atomic_write(self._run.path / "losses.png") as temporary:
            plot_losses(losses, self._steps_per_epoch, temporary)
        self._next_plot = began + (time.monotonic() - began) / PLOTTING


class SampleGrids(Callback):
    """Grids of samples in `samples/`: one column per class, the same latent points each time.

    `epoch_NNNN.png` is drawn after an epoch. A run that stops in between also has `stopped.png`,
    until it resumes.

    Args:
        gan: what is trained.
        run: the run folder.
        every: epochs between two grids; the first and the last epoch have one too.
        rows: images of each class; by default 10, or fewer of more than 40 classes. More than 200
            classes are not all drawn.
        seed: of the latent points.
        conditions: of a generator with a `condition_dim`, the vector of each column, floats
            `[columns, condition_dim]`.
        training: the training images, uint8 `[N, H, W, C]`. With them, the last samples are
            drawn in `nearest.png`, each above the training image nearest to it, to show copies.
    """

    def __init__(
        self,
        gan: GAN,
        run: RunFolder,
        every: int = 5,
        rows: int | None = None,
        seed: int = 0,
        conditions: np.ndarray | None = None,
        training: np.ndarray | None = None,
    ) -> None:
        self._gan, self._run, self._training = gan, run, training
        self._every = check_int("every", every, 1, hint="Omit it for the default, 5.")
        if rows is not None:
            rows = check_int("rows", rows, 1, hint="Omit it for the default, at most 10.")
        self._key = random.key(check_seed(seed))
        self._columns: Any = shown_classes(len(run.class_names))
        self._names = [run.class_names[label] for label in self._columns]
        if (conditions is None) != (condition_dim(gan.generator) is None):
            raise ConfigError(
                f"conditions is {short_repr(conditions)}\nexpected one vector per column, if and "
                "only if the generator has a condition_dim\nPass some of the data's labels."
            )
        if conditions is not None:
            self._columns = np.asarray(conditions, np.float32)
            self._names = [str(i) for i in range(len(conditions))]
        self._rows = rows_for(len(self._names)) if rows is None else rows

    def on_train_start(self, start: TrainStart) -> None:
        self._steps_per_epoch, self._last_epoch = start.steps_per_epoch, start.config.epochs
        with write_errors(self._run.stopped_grid):
            self._run.stopped_grid.unlink(missing_ok=True)

    def on_epoch_end(self, epoch: EpochEnd) -> None:
        if epoch.epoch % self._every == 0 or epoch.epoch in (1, self._last_epoch):
            self._draw(epoch.state, self._run.sample_grid(epoch.epoch))

    def on_train_end(self, end: TrainEnd) -> None:
        epoch, batches = divmod(end.step, self._steps_per_epoch)
        drawn = batches == 0 and self._run.sample_grid(epoch).exists()
        if not end.step:
            return
        if not drawn:
            self._draw(end.state, self._run.stopped_grid)
        if self._training is not None:
            images = self._images(end.state)
            indices = nearest_neighbours(images, self._training).indices
            self._save(np.concatenate([images, self._training[indices]], 1), self._run.nearest)

    def _draw(self, state: GANState, path: Path) -> None:
        self._save(self._images(state), path)

    def _images(self, state: GANState) -> np.ndarray:
        labels = np.concatenate([self._columns] * self._rows)
        return generate(self._gan.generator, state.sampling_variables, labels, self._key)

    def _save(self, images: np.ndarray, path: Path) -> None:
        names = self._names
        picture = grid(images.reshape(self._rows, len(names), *images.shape[1:]), names)
        with atomic_write(path) as temporary:
            picture.save(temporary)


class TensorBoard(Callback):
    """Losses, speed, sample grids and measures as TensorBoard events, in `events/`.

    Args:
        run: the run folder.
        every: log the losses of each `every`-th step.
    """

    def __init__(self, run: RunFolder, every: int = 50) -> None:
        self._run, self._folder = run, run.path / "events"
        self._every = check_int("every", every, 1, hint="Omit it for the default, 50.")
        self._grid_at: tuple[int, int] | None = None  # epoch and step whose grid is not written yet

    def on_train_start(self, start: TrainStart) -> None:
        self._step, self._seconds, self._grid_at = start.step, 0.0, None
        # Events after this step come from a run that ended before it saved again.
        with write_errors(self._folder):
            self._events = EventFile(self._folder, purge_step=start.step)

    def on_chunk_end(self, chunk: ChunkEnd) -> None:
        self._write_grid()
        with write_errors(self._folder):
            for i in range(-self._step % self._every, len(chunk.losses), self._every):
                d_loss, g_loss = chunk.losses[i].tolist()
                self._events.scalar("loss/discriminator", d_loss, self._step + i)
                self._events.scalar("loss/generator", g_loss, self._step + i)
            self._events.flush()
        self._step = chunk.step
        self._seconds += chunk.seconds

    def on_epoch_end(self, epoch: EpochEnd) -> None:
        rate = len(epoch.losses) / self._seconds
        self._seconds = 0.0
        self._grid_at = epoch.epoch, epoch.step
        with write_errors(self._folder):
            self._events.scalar("speed/steps_per_second", rate, epoch.step)
            for name, value in epoch.measures.items():
                self._events.scalar(f"measures/{name}", value, epoch.step)

    def on_train_end(self, end: TrainEnd) -> None:
        self._write_grid()
        with write_errors(self._folder):
            self._events.flush()

    def _write_grid(self) -> None:
        """Write the last epoch's sample grid, if there is one: all callbacks have seen its end."""
        if self._grid_at is None:
            return
        (epoch, step), self._grid_at = self._grid_at, None
        grid_file = self._run.sample_grid(epoch)
        with write_errors(self._folder):
            if grid_file.exists():
                self._events.picture("samples", grid_file, step)
