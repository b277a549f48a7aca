"""What a run shows on the screen: the report's lines, a summary an epoch, the time left."""

import numpy as np
import pytest

from cgan_jax.training.callbacks import EpochEnd, SpanEnd
from experiments.shared import progress
from experiments.shared.progress import Progress, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (3840, "1 h 04 min")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test turns by hand."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def test_lines_and_time_left(clock, capsys):
    """Ten steps an epoch at 2 s a step; the first step also compiles, which says nothing."""
    shown = Progress(epochs=3, log_every=4)
    shown.on_train_start(0, 30, 10)
    losses = np.stack([np.arange(10) / 10, 1 - np.arange(10) / 10], axis=1).astype(np.float32)
    for batch, n, seconds in ((0, 1, 100.0), (1, 9, 18.0)):
        clock[0] += seconds
        shown.on_span_end(SpanEnd(0, batch, losses[batch : batch + n], seconds))
    shown.on_epoch_end(EpochEnd(1, 10, None, losses))
    shown.on_train_end(10, None)
    assert capsys.readouterr().out.splitlines() == [
        "[Epoch 0/3] [Batch 0/10] [D loss: 0.000000] [G loss: 1.000000]",
        "[Epoch 0/3] [Batch 4/10] [D loss: 0.400000] [G loss: 0.600000]",
        "[Epoch 0/3] [Batch 8/10] [D loss: 0.800000] [G loss: 0.200000]",
        "Epoch 1/3: D loss 0.4500, G loss 0.5500, 0.1 steps/s, 40 s left",
    ]


def test_the_compilation_for_an_epochs_last_batch_says_nothing_of_the_time_left(clock, capsys):
    shown = Progress(epochs=11)
    shown.on_train_start(0, 33, 3)
    losses = np.zeros((3, 2), np.float32)
    for batch, n, seconds in ((0, 1, 100.0), (1, 1, 2.0), (2, 1, 100.0)):
        clock[0] += seconds
        shown.on_span_end(SpanEnd(0, batch, losses[:n], seconds))
    shown.on_epoch_end(EpochEnd(1, 3, None, losses))
    assert "1 min 00 s left" in capsys.readouterr().out


def test_time_left_follows_the_last_minute(clock, capsys):
    """After an hour at 1 s a step, ten minutes at 10 s a step."""
    shown = Progress(epochs=1)
    shown.on_train_start(0, 10_000, 10_000)
    losses = np.zeros((1, 2), np.float32)
    for n, seconds in ((1, 1.0), *[(60, 60.0)] * 60, *[(6, 60.0)] * 10):
        clock[0] += seconds
        shown.on_span_end(SpanEnd(0, 0, losses.repeat(n, 0), seconds))
    shown.on_epoch_end(EpochEnd(1, 9_000, None, losses))
    assert "2 h 46 min left" in capsys.readouterr().out
