"""A training run on the screen: a bar with time left, losses and speed, and lines for the log.

Files of a run (losses.csv, pictures, events) are written by cgan_jax.reporting.callbacks.
"""

import math
import sys
import time
from collections.abc import Sequence

from cgan_jax.bars import duration, in_notebook, work_bar
from cgan_jax.training.callbacks import Callback, ChunkEnd, EpochEnd, TrainEnd, TrainStart


class Progress(Callback):
    """A bar in a terminal or a notebook, one line per epoch, the report's line for some batches.

    Args:
        log_every: print the report's line for every `log_every`-th batch; 0 for none. It counts
            epochs and batches from 0.
    """

    def __init__(self, log_every: int = 0) -> None:
        self._log_every = log_every

    def on_train_start(self, start: TrainStart) -> None:
        self._epochs, self._last_step = start.config.epochs, start.last_step
        self._steps_per_epoch = start.steps_per_epoch
        self._previous_time = time.perf_counter()
        self._recent_seconds = self._recent_steps = self._epoch_seconds = 0.0
        self._epoch_steps = 0
        line = "{desc} {percentage:3.0f}%{postfix} |{bar}|"  # the bar takes what is left
        self._bar = work_bar(line, total=start.last_step, initial=start.step)
        if start.data:
            self._bar.write(f"Training on {start.data}.")
        if self._log_every:
            self._bar.write("[Epoch] and [Batch] count from 0, as in the report.")

    def on_compile(self) -> None:
        self._bar.set_description_str("Compiling")

    def on_chunk_end(self, chunk: ChunkEnd) -> None:
        n = len(chunk.losses)
        self._epoch_seconds += 0 if chunk.compiled else chunk.seconds
        self._epoch_steps += 0 if chunk.compiled else n
        if self._log_every:
            for i in range(-chunk.batch % self._log_every, n, self._log_every):
                d_loss, g_loss = chunk.losses[i].tolist()
                self._bar.write(
                    f"[Epoch {chunk.epoch}/{self._epochs}] "
                    f"[Batch {chunk.batch + i}/{self._steps_per_epoch}] "
                    f"[D loss: {d_loss:.6f}] [G loss: {g_loss:.6f}]"
                )
        self._update_pace(n, chunk.compiled)
        d_loss, g_loss = chunk.losses.mean(axis=0).tolist()
        words = [*self._time_left(chunk.step), f"D {d_loss:.3f}, G {g_loss:.3f}"]
        if not chunk.compiled:
            words.append(speed(n / chunk.seconds))
        self._bar.set_description_str(f"Epoch {chunk.epoch + 1}/{self._epochs}", refresh=False)
        self._bar.set_postfix_str(", ".join(words), refresh=False)
        self._bar.update(n)

    def on_epoch_end(self, epoch: EpochEnd) -> None:
        d_loss, g_loss = epoch.losses.mean(axis=0).tolist()
        words = [f"D loss {d_loss:.4f}", f"G loss {g_loss:.4f}"]
        if self._epoch_steps:
            words.append(speed(self._epoch_steps / self._epoch_seconds))
        self._write(epoch.epoch, words + self._time_left(epoch.step))
        if epoch.measures:
            self._write(epoch.epoch, [f"{k} {v:.4g}" for k, v in epoch.measures.items()])
        self._epoch_seconds, self._epoch_steps = 0.0, 0

    def _write(self, epoch: int, words: list[str]) -> None:
        self._bar.write(f"Epoch {epoch}/{self._epochs}: {', '.join(words)}")

    def on_train_end(self, end: TrainEnd) -> None:
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


def wants_progress(asked: bool | None, callbacks: Sequence[Callback]) -> bool:
    """Whether `train` is to add a Progress: by default in a terminal and in a notebook."""
    if any(isinstance(callback, Progress) for callback in callbacks):
        return False
    return (sys.stderr.isatty() or in_notebook()) if asked is None else asked


def speed(steps_per_second: float) -> str:
    """A pace for people: `78 steps/s`, `4.8 steps/s`, `0.35 steps/s`."""
    digits = 0 if steps_per_second >= 9.95 else 1 if steps_per_second >= 0.995 else 2
    return f"{steps_per_second:.{digits}f} steps/s"
