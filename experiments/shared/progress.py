"""A training run on the screen: a bar with time left, losses and speed, and lines for the log.

Files of a run (losses.csv, pictures, events) are written by cgan_jax.reporting.callbacks.
"""

import math
import sys
import time

from tqdm import tqdm

from cgan_jax.metrics.measures import find_declines
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.tables import INDEX_COLUMNS, measures_at, read_measures
from cgan_jax.training.callbacks import Callback, EpochEnd, SpanEnd
from cgan_jax.training.gan import GANState
from experiments.shared.reading import work_bar

AFTER_DECLINE = "The GAN may be collapsing; best/ keeps its best state."


class Progress(Callback):
    """A bar on a terminal; one line per epoch; and the report's line for some batches.

    Args:
        epochs: number of epochs of the whole run.
        log_every: print the report's line for every `log_every`-th batch; 0 for none. It counts
            epochs and batches from 0.
        run: the run folder, whose new measures, if any, are printed with the epoch.
    """

    def __init__(self, epochs: int, log_every: int = 0, run: RunFolder | None = None) -> None:
        self._epochs, self._log_every, self._run = epochs, log_every, run

    def on_train_start(self, step: int, last_step: int, steps_per_epoch: int) -> None:
        self._last_step, self._steps_per_epoch = last_step, steps_per_epoch
        self._previous_time = time.perf_counter()
        self._recent_seconds = self._recent_steps = self._epoch_seconds = 0.0
        line = "{desc} {percentage:3.0f}%{postfix} |{bar}|"  # the bar takes what is left
        self._bar = work_bar(line, total=last_step, initial=step)
        if self._log_every:
            tqdm.write("[Epoch] and [Batch] count from 0, as in the report.")

    def on_span_end(self, span: SpanEnd) -> None:
        n = len(span.losses)
        self._epoch_seconds += span.seconds
        if self._log_every:
            for i in range(-span.batch % self._log_every, n, self._log_every):
                d_loss, g_loss = span.losses[i].tolist()
                tqdm.write(
                    f"[Epoch {span.epoch}/{self._epochs}] "
                    f"[Batch {span.batch + i}/{self._steps_per_epoch}] "
                    f"[D loss: {d_loss:.6f}] [G loss: {g_loss:.6f}]"
                )
        self._update_pace(n, span.compiled)
        d_loss, g_loss = span.losses.mean(axis=0).tolist()
        speed = f"D {d_loss:.3f}, G {g_loss:.3f}, {n / span.seconds:.0f} steps/s"
        self._bar.set_description_str(f"Epoch {span.epoch + 1}/{self._epochs}", refresh=False)
        text = [*self._time_left(self._bar.n + n), speed]
        self._bar.set_postfix_str(", ".join(text), refresh=False)
        self._bar.update(n)

    def on_epoch_end(self, epoch: EpochEnd) -> None:
        d_loss, g_loss = epoch.losses.mean(axis=0).tolist()
        rate = len(epoch.losses) / self._epoch_seconds
        text = [f"D loss {d_loss:.4f}", f"G loss {g_loss:.4f}", f"{rate:.1f} steps/s"]
        self._write(epoch.epoch, text + self._time_left(epoch.step))
        if self._run and (row := measures_at(self._run, epoch.step)):
            measures = [f"{k} {v:.4g}" for k, v in row.items() if k not in INDEX_COLUMNS]
            self._write(epoch.epoch, measures)
            for line in find_declines(read_measures(self._run.measures)):
                tqdm.write(f"WARNING: {line}. {AFTER_DECLINE}", file=sys.stderr)
        self._epoch_seconds = 0.0

    def _write(self, epoch: int, words: list[str]) -> None:
        tqdm.write(f"Epoch {epoch}/{self._epochs}: {', '.join(words)}")

    def on_train_end(self, step: int, state: GANState) -> None:
        self._bar.close()

    def _update_pace(self, n: int, compiled: bool) -> None:
        """Update the time and steps of about the last minute, pictures and saves included.

        Spans that compile are left out.
        """
        now = time.perf_counter()
        seconds, self._previous_time = now - self._previous_time, now
        if not compiled:
            decay = math.exp(-seconds / 60)
            self._recent_seconds = self._recent_seconds * decay + seconds
            self._recent_steps = self._recent_steps * decay + n

    def _time_left(self, step: int) -> list[str]:
        """The time left after `step` steps as a text, or none while it is unknown."""
        if not self._recent_steps:
            return []
        pace = self._recent_seconds / self._recent_steps
        return [f"{duration((self._last_step - step) * pace)} left"]


def duration(seconds: float) -> str:
    """A duration for people: `12 s`, `3 min 05 s`, `1 h 04 min`."""
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02d} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60:02d} min"
