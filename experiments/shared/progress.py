"""A training run on the screen: a bar with losses, speed and time left, and lines for the log.

Files of a run (losses.csv, pictures, events) are written by cgan_jax.reporting.callbacks.
"""

import math
import sys
import time

from tqdm import tqdm

from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.tables import INDEX_COLUMNS, measures_at
from cgan_jax.training.callbacks import Callback, EpochEnd, SpanEnd
from cgan_jax.training.gan import GANState


class Progress(Callback):
    """A bar on a terminal; a line an epoch; and the report's line for each `log_every`-th batch.

    Args:
        epochs: how many the run has in all.
        log_every: in batches; 0 for no such lines.
        run: the run folder, whose new measures, if there are any, are told with the epoch.
    """

    def __init__(self, epochs: int, log_every: int = 0, run: RunFolder | None = None) -> None:
        self._epochs, self._log_every, self._run = epochs, log_every, run

    def on_train_start(self, step: int, last_step: int, steps_per_epoch: int) -> None:
        self._steps_per_epoch = steps_per_epoch
        self._last_told, self._compiled = time.perf_counter(), set[bool]()
        self._recent_seconds = self._recent_steps = 0.0
        self._epoch_seconds = 0.0
        self._bar = tqdm(
            total=last_step,
            initial=step,
            disable=not sys.stderr.isatty(),
            bar_format="{desc} {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt}{postfix}",
            dynamic_ncols=True,
            leave=False,
        )
        self._last_step = last_step

    def on_span_end(self, span: SpanEnd) -> None:
        self._epoch_seconds += span.seconds
        if self._log_every:
            for i in range(-span.batch % self._log_every, len(span.losses), self._log_every):
                d_loss, g_loss = span.losses[i].tolist()
                tqdm.write(
                    f"[Epoch {span.epoch}/{self._epochs}] "
                    f"[Batch {span.batch + i}/{self._steps_per_epoch}] "
                    f"[D loss: {d_loss:.6f}] [G loss: {g_loss:.6f}]"
                )
        n = len(span.losses)
        self._update_pace(n, last_batch=span.batch == self._steps_per_epoch - 1)
        d_loss, g_loss = span.losses.mean(axis=0).tolist()
        self._bar.set_description_str(f"Epoch {span.epoch + 1}/{self._epochs}", refresh=False)
        self._bar.set_postfix_str(
            f"D {d_loss:.3f}, G {g_loss:.3f}, {n / span.seconds:.0f} steps/s, "
            f"{self._time_left(self._bar.n + n)} left",
            refresh=False,
        )
        self._bar.update(n)

    def on_epoch_end(self, epoch: EpochEnd) -> None:
        d_loss, g_loss = epoch.losses.mean(axis=0).tolist()
        tqdm.write(
            f"Epoch {epoch.epoch}/{self._epochs}: D loss {d_loss:.4f}, G loss {g_loss:.4f}, "
            f"{len(epoch.losses) / self._epoch_seconds:.1f} steps/s, "
            f"{self._time_left(epoch.step)} left"
        )
        self._epoch_seconds = 0.0
        if self._run and (row := measures_at(self._run, epoch.step)):
            found = (
                f"{name} {value:.4g}" for name, value in row.items() if name not in INDEX_COLUMNS
            )
            tqdm.write(f"Epoch {epoch.epoch}/{self._epochs}: {', '.join(found)}")

    def on_train_end(self, step: int, state: GANState) -> None:
        self._bar.close()

    def _update_pace(self, n: int, last_batch: bool) -> None:
        """Time and steps of about the last minute, with pictures and saves; not the compilations.

        The first span compiles, and so does the first of an epoch's last batch, which is smaller.
        """
        now = time.perf_counter()
        seconds, self._last_told = now - self._last_told, now
        if last_batch in self._compiled:
            forget = math.exp(-seconds / 60)
            self._recent_seconds = self._recent_seconds * forget + seconds
            self._recent_steps = self._recent_steps * forget + n
        self._compiled.add(last_batch)

    def _time_left(self, step: int) -> str:
        if not self._recent_steps:
            return "?"
        return duration((self._last_step - step) * self._recent_seconds / self._recent_steps)


def duration(seconds: float) -> str:
    """Seconds as a person writes them: `12 s`, `3 min 05 s`, `1 h 04 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
