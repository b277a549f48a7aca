"""What a run prints: the report's lines, one line per epoch, the bar, the time left."""

import io
import os
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from cgan_jax import Losses, train
from cgan_jax.bars import duration
from cgan_jax.training import progress
from cgan_jax.training.callbacks import ChunkEnd, EpochEnd, TrainEnd, TrainStart
from cgan_jax.training.gan import GAN
from cgan_jax.training.progress import Progress, speed
from experiments.proofs.tiny import CONFIG


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (3840, "1 h 04 min")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (1234.5, "1234"),
        (9.96, "10"),
        (9.94, "9.9"),
        (0.996, "1.0"),
        (0.99, "0.99"),
        (0.354, "0.35"),
    ],
)
def test_a_speed_has_at_least_two_digits(rate, text):
    assert speed(rate) == f"{text} steps/s"


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def started(epochs, last_step, steps_per_epoch, step=0, data="", **options):
    """A Progress at the start of training."""
    callback = Progress(**options)
    config = replace(CONFIG, epochs=epochs)
    callback.on_train_start(TrainStart(None, config, None, step, last_step, steps_per_epoch, data))
    return callback


def chunks_end(callback, clock, *chunks):
    """Call a callback after chunks given as (first batch, losses, seconds, compiled)."""
    for batch, losses, seconds, compiled in chunks:
        if compiled:
            callback.on_compile()
        clock[0] += seconds
        step = batch + len(losses)
        callback.on_chunk_end(ChunkEnd(0, batch, step, None, losses, seconds, compiled))


def test_lines_and_time_left(clock, capsys):
    """Ten steps per epoch at 2 s each; the first one also compiles, which does not count."""
    callback = started(3, 30, 10, data="22 images in memory", log_every=4)
    losses = np.stack([np.arange(10) / 10, 1 - np.arange(10) / 10], axis=1).astype(np.float32)
    chunks_end(callback, clock, (0, losses[:1], 100.0, True), (1, losses[1:], 18.0, False))
    callback.on_epoch_end(EpochEnd(1, 10, None, losses))
    callback.on_train_end(TrainEnd(10, None))
    assert capsys.readouterr().out.splitlines() == [
        "Training on 22 images in memory.",
        "[Epoch] and [Batch] count from 0, as in the report.",
        "[Epoch 0/3] [Batch 0/10] [D loss: 0.000000] [G loss: 1.000000]",
        "[Epoch 0/3] [Batch 4/10] [D loss: 0.400000] [G loss: 0.600000]",
        "[Epoch 0/3] [Batch 8/10] [D loss: 0.800000] [G loss: 0.200000]",
        "Epoch 1/3: D loss 0.4500, G loss 0.5500, 0.50 steps/s, 40 s left",
    ]


def test_measures_have_a_line_of_their_own(clock, capsys):
    callback, losses = started(2, 2, 1), np.zeros((1, 2), np.float32)
    chunks_end(callback, clock, (0, losses, 1.0, False))
    callback.on_epoch_end(EpochEnd(1, 1, None, losses, {"fd": 0.123456, "own": 12345.6}))
    assert capsys.readouterr().out.splitlines()[1] == "Epoch 1/2: fd 0.1235, own 1.235e+04"


def test_time_left_and_speed_ignore_chunks_that_compile(clock, capsys):
    callback = started(11, 33, 3)
    losses = np.zeros((1, 2), np.float32)
    chunks = (0, losses, 100.0, True), (1, losses, 2.0, False), (2, losses, 100.0, True)
    chunks_end(callback, clock, *chunks)
    callback.on_epoch_end(EpochEnd(1, 3, None, losses))
    assert "0.50 steps/s, 1 min 00 s left" in capsys.readouterr().out


def test_unknown_time_left_and_speed_are_not_printed(clock, capsys):
    """After an epoch whose only chunk was compiled."""
    callback = started(2, 2, 1)
    losses = np.zeros((1, 2), np.float32)
    chunks_end(callback, clock, (0, losses, 2.0, True))
    callback.on_epoch_end(EpochEnd(1, 1, None, losses))
    assert capsys.readouterr().out == "Epoch 1/2: D loss 0.0000, G loss 0.0000\n"


def test_time_left_follows_the_last_minute(clock, capsys):
    """After an hour at 1 s per step, ten minutes at 10 s per step."""
    callback = started(1, 10_000, 10_000)
    losses = np.zeros((1, 2), np.float32)
    chunks = (1, 1.0, True), *[(60, 60.0, False)] * 60, *[(6, 60.0, False)] * 10
    chunks_end(callback, clock, *((0, losses.repeat(n, 0), s, c) for n, s, c in chunks))
    callback.on_epoch_end(EpochEnd(1, 9_000, None, losses))
    assert "2 h 46 min left" in capsys.readouterr().out


class Terminal(io.StringIO):
    """A terminal that keeps what it is shown."""

    encoding = "utf-8"

    def isatty(self):
        return True

    def fileno(self):
        return 2

    def lines(self):
        return self.getvalue().split("\r")


def terminal_of(monkeypatch, columns=120):
    """A terminal in the place of the standard error. Not a fixture: pytest sets that itself."""
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((columns, 24)))
    return terminal


@pytest.mark.parametrize(("columns", "bar"), [(120, 35), (80, 1)])
def test_bar_shrinks_to_the_width_of_the_terminal(clock, monkeypatch, columns, bar):
    """Of the longest lines, nothing else is cut off at 80 columns."""
    *_, line = lines_of_a_long_run(clock, monkeypatch, columns)
    assert line.startswith("Epoch 100/200  50%, 26 h 15 min left, D 0.250, G 0.250, 105 steps/s |")
    assert bar <= line.count(" ", line.index("|")) + line.count("█")
    assert len(line) < columns


def test_time_left_comes_first_on_a_narrow_terminal(clock, monkeypatch):
    *_, line = lines_of_a_long_run(clock, monkeypatch, 40)
    assert line == "Epoch 100/200  50%, 26 h 15 min left, D"


def lines_of_a_long_run(clock, monkeypatch, columns):
    """What a terminal of some width shows of a long run's 100th epoch."""
    terminal = terminal_of(monkeypatch, columns)
    callback = started(200, 187_600, 938, step=93_000)
    callback._bar.mininterval = 0  # redrawn after each chunk
    for batch in (0, 50):
        clock[0] += 50
        losses = np.full((50, 2), 0.25, np.float32)
        callback.on_chunk_end(ChunkEnd(99, batch, 93_050 + batch, None, losses, 50 / 105))
    shown = terminal.lines()
    callback.on_train_end(TrainEnd(93_100, None))
    return shown


def test_the_bar_says_that_a_program_is_compiled(clock, monkeypatch):
    """Until its steps are done, whose time gives no speed and no time left."""
    terminal = terminal_of(monkeypatch)
    callback, losses = started(2, 20, 10), np.full((1, 2), 0.5, np.float32)
    callback._bar.mininterval = 0
    callback.on_compile()
    assert terminal.lines()[-1].startswith("Compiling   0% |")
    clock[0] += 10
    callback.on_chunk_end(ChunkEnd(0, 0, 1, None, losses, 10.0, compiled=True))
    assert terminal.lines()[-1].startswith("Epoch 1/2   5%, D 0.500, G 0.500 |")
    clock[0] += 2
    callback.on_chunk_end(ChunkEnd(0, 1, 2, None, losses, 2.0))
    expected = "Epoch 1/2  10%, 36 s left, D 0.500, G 0.500, 0.50 steps/s |"
    assert terminal.lines()[-1].startswith(expected)
    callback.on_train_end(TrainEnd(2, None))


# In `train`


def step(gan, state, batch, key):
    """One that compiles at once."""
    mean = batch.images.astype("float32").mean()
    return state.replace(step=state.step + 1), Losses(mean, mean)


@pytest.fixture
def run(tiny_config, tiny_dataset):
    return partial(train, GAN.from_config(tiny_config), tiny_config, tiny_dataset, step=step)


def test_train_shows_progress_if_it_is_asked_to(run, capsys):
    run(progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Training on 22 images (0 MB) in memory."
    assert [line.split(":")[0] for line in lines[1:]] == ["Epoch 1/3", "Epoch 2/3", "Epoch 3/3"]
    run(progress=True, callbacks=[Progress(log_every=6)])
    out = capsys.readouterr().out
    assert out.count("Epoch 1/3:") == 1  # by the callback, and by no second one
    assert out.count("[Batch 0/6]") == 3


def test_train_is_silent_without_a_terminal(run, capsys):
    for progress_or_not in (None, False):
        run(progress=progress_or_not)
        assert capsys.readouterr() == ("", "")


def test_train_shows_a_bar_in_a_terminal(run, capsys, monkeypatch):
    terminal = terminal_of(monkeypatch)
    run(progress=False)
    assert (terminal.getvalue(), capsys.readouterr().out) == ("", "")
    run()
    assert "Compiling   0% |" in terminal.getvalue()
    assert capsys.readouterr().out.count("Epoch ") == 3


def test_train_shows_progress_in_a_notebook(run, capsys, monkeypatch):
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    run(progress=False)
    assert capsys.readouterr().out == ""
    run()
    assert capsys.readouterr().out.count("Epoch ") == 3
