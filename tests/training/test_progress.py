"""What a run prints: the report's lines, one line per epoch, the time left."""

import io
import os
import sys

import numpy as np
import pytest

from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.tables import write_measures
from cgan_jax.training.callbacks import EpochEnd, SpanEnd
from experiments.proofs.tiny import CONFIG
from experiments.shared import progress
from cgan_jax.bars import duration
from cgan_jax.training.progress import Progress


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (3840, "1 h 04 min")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def spans_end(callback, clock, *spans):
    """Call a callback after spans given as (first batch, losses, seconds, compiled)."""
    for batch, losses, seconds, compiled in spans:
        clock[0] += seconds
        callback.on_span_end(SpanEnd(0, batch, losses, seconds, compiled))


def test_lines_and_time_left(clock, capsys):
    """Ten steps per epoch at 2 s each; the first one also compiles, which does not count."""
    callback = Progress(epochs=3, log_every=4)
    callback.on_train_start(0, 30, 10)
    losses = np.stack([np.arange(10) / 10, 1 - np.arange(10) / 10], axis=1).astype(np.float32)
    spans_end(callback, clock, (0, losses[:1], 100.0, True), (1, losses[1:], 18.0, False))
    callback.on_epoch_end(EpochEnd(1, 10, None, losses))
    callback.on_train_end(10, None)
    assert capsys.readouterr().out.splitlines() == [
        "[Epoch] and [Batch] count from 0, as in the report.",
        "[Epoch 0/3] [Batch 0/10] [D loss: 0.000000] [G loss: 1.000000]",
        "[Epoch 0/3] [Batch 4/10] [D loss: 0.400000] [G loss: 0.600000]",
        "[Epoch 0/3] [Batch 8/10] [D loss: 0.800000] [G loss: 0.200000]",
        "Epoch 1/3: D loss 0.4500, G loss 0.5500, 0.1 steps/s, 40 s left",
    ]


def test_a_decline_is_a_warning(clock, capsys, tmp_path):
    """After the fourth evaluation, the third that is clearly worse than the best."""
    run = RunFolder.start(tmp_path / "run", CONFIG, ("a", "b"))
    callback, losses = Progress(epochs=5, run=run), np.zeros((1, 2), np.float32)
    callback.on_train_start(0, 5, 1)
    rows, warnings = [], []
    for epoch, coverage in enumerate((0.6, 0.3, 0.3, 0.2, 0.5), start=1):
        rows.append({"epoch": epoch, "step": epoch, "coverage": coverage})
        write_measures(run.measures, rows)
        spans_end(callback, clock, (0, losses, 1.0, False))
        callback.on_epoch_end(EpochEnd(epoch, epoch, None, losses))
        out, err = capsys.readouterr()
        assert f"Epoch {epoch}/5: coverage {coverage}" in out
        warnings.append(err)
    assert warnings == ["", "", "", warnings[3], ""]
    assert warnings[3].startswith("WARNING: coverage has been clearly worse than its best for 3 ")
    assert "0.2 now, 0.6 after epoch 1. The GAN may be collapsing" in warnings[3]


def test_time_left_ignores_spans_that_compile(clock, capsys):
    callback = Progress(epochs=11)
    callback.on_train_start(0, 33, 3)
    losses = np.zeros((1, 2), np.float32)
    spans = (0, losses, 100.0, True), (1, losses, 2.0, False), (2, losses, 100.0, True)
    spans_end(callback, clock, *spans)
    callback.on_epoch_end(EpochEnd(1, 3, None, losses))
    assert "1 min 00 s left" in capsys.readouterr().out


def test_unknown_time_left_is_not_printed(clock, capsys):
    callback = Progress(epochs=2)
    callback.on_train_start(0, 2, 1)
    losses = np.zeros((1, 2), np.float32)
    spans_end(callback, clock, (0, losses, 2.0, True))
    callback.on_epoch_end(EpochEnd(1, 1, None, losses))
    assert capsys.readouterr().out == "Epoch 1/2: D loss 0.0000, G loss 0.0000, 0.5 steps/s\n"


def test_time_left_follows_the_last_minute(clock, capsys):
    """After an hour at 1 s per step, ten minutes at 10 s per step."""
    callback = Progress(epochs=1)
    callback.on_train_start(0, 10_000, 10_000)
    losses = np.zeros((1, 2), np.float32)
    spans = (1, 1.0, True), *[(60, 60.0, False)] * 60, *[(6, 60.0, False)] * 10
    spans_end(callback, clock, *((0, losses.repeat(n, 0), s, c) for n, s, c in spans))
    callback.on_epoch_end(EpochEnd(1, 9_000, None, losses))
    assert "2 h 46 min left" in capsys.readouterr().out


@pytest.mark.parametrize(("columns", "bar"), [(120, 35), (80, 1)])
def test_bar_shrinks_to_the_width_of_the_terminal(clock, monkeypatch, columns, bar):
    """Of the longest lines, nothing else is cut off at 80 columns."""
    *_, line = terminal_lines(clock, monkeypatch, columns)
    assert line.startswith("Epoch 100/200  50%, 26 h 15 min left, D 0.250, G 0.250, 105 steps/s |")
    assert bar <= line.count(" ", line.index("|")) + line.count("█")
    assert len(line) < columns


def test_time_left_comes_first_on_a_narrow_terminal(clock, monkeypatch):
    *_, line = terminal_lines(clock, monkeypatch, 40)
    assert line == "Epoch 100/200  50%, 26 h 15 min left, D"


def terminal_lines(clock, monkeypatch, columns):
    """What a terminal of some width shows of a long run's 100th epoch."""

    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self):
            return True

        def fileno(self):
            return 2

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((columns, 24)))
    callback = Progress(epochs=200)
    callback.on_train_start(93_000, 187_600, 938)
    callback._bar.mininterval = 0  # redrawn after each span
    for batch in (0, 50):
        clock[0] += 50
        callback.on_span_end(SpanEnd(99, batch, np.full((50, 2), 0.25, np.float32), 50 / 105))
    shown = terminal.getvalue()
    callback.on_train_end(93_100, None)
    return shown.split("\r")
