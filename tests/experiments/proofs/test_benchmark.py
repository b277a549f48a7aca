"""The stopwatches of the benchmarks. What they time is measured by hand: docs/results.md."""

from dataclasses import replace

import numpy as np
import pytest

from cgan_jax.training.callbacks import Callback
from cgan_jax.training.gan import GAN
from cgan_jax.training.loop import train
from experiments.proofs import tiny
from experiments.proofs.bare_run import BareRun
from experiments.proofs.benchmark_parts import _run_timer


class Run:
    """Stands for a run of 11 batches per epoch, the last of them smaller."""

    steps_per_epoch = 11

    def __init__(self):
        self.calls = []

    def fresh_state(self):
        return "state"

    def take(self, state, step, n):
        self.calls.append((step, n))
        return state, None


@pytest.mark.parametrize(
    ("penalty_period", "steps", "warm_up_and_turn"),
    [
        (1, 4, [(0, 4), (4, 4)]),
        (1, 400, [(0, 5), (5, 5)]),
        (2, 4, [(0, 4), (4, 4)]),
        (2, 400, [(0, 4), (4, 4)]),
    ],
)
def test_a_turn_is_timed_within_one_epoch_after_as_many_steps(
    penalty_period, steps, warm_up_and_turn
):
    run = Run()
    assert _run_timer(run, penalty_period)(steps) > 0
    assert run.calls == warm_up_and_turn


class Losses(Callback):
    def __init__(self):
        self.chunks = []

    def on_chunk_end(self, chunk):
        self.chunks.append(chunk.losses)


def test_what_is_timed_are_the_steps_that_train_takes():
    config, losses = replace(tiny.CONFIG, epochs=1, seed=3), Losses()
    trained = train(GAN.from_config(config), config, tiny.dataset(), callbacks=[losses])
    run = BareRun(config, tiny.dataset(), seed=3)
    assert run.steps_per_epoch == 6
    state, first = run.take(run.fresh_state(), 0, 4)
    state, last = run.take(state, 4, 2)
    assert int(state.step) == 6
    np.testing.assert_array_equal(np.concatenate([first, last]), np.concatenate(losses.chunks))
    np.testing.assert_array_equal(
        state.gen.params["output"]["kernel"], trained.gen.params["output"]["kernel"]
    )
